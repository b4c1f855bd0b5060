"""trainers/cards.py and trainers/hub.py: true cards, uploads, and no token in any file."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import ModelCard, constants

from eval.errors import UserError
from eval.ownership import MARKER, unfinished_file
from eval.storage import read_json, read_jsonl
from tests.tiny import random_checkpoint
from tests.trainers.test_tracking import ES_OPTIONS, GRPO_OPTIONS, words
from trainers import hub
from trainers.arguments import parse
from trainers.es.config import ESConfig
from trainers.es.train import train_es
from trainers.grpo import GRPOArguments, GRPOConfig, train_grpo
from trainers.hub import check_hub
from trainers.pretrain import PretrainConfig, pretrain
from trainers.run_folder import end_run


TOKEN = "hf_thisIsNoTokenOfAnybody123456"
PRETRAIN = dict(hidden_size=16, layers=1, heads=2, key_value_heads=1, intermediate_size=16, steps=1, batch_size=4)


def train(method, folder, **options):
    """The smallest run of a method; returns its folder."""
    run = folder / method
    if method == "pretrain":
        pretrain(
            PretrainConfig(output_dir=str(run), tasks=["yes_no"], evaluate_size=4, threads=1, **PRETRAIN, **options)
        )
        return run
    base = random_checkpoint(folder / "base")
    if method == "es":
        train_es(ESConfig(str(base), str(run), **ES_OPTIONS | {"steps": 1, "eval_every": 1}, **options))
    else:
        given = GRPO_OPTIONS | {"max_steps": 1, "eval_every": 1, "lora_rank": 2, "model": base, "output_dir": run}
        train_grpo(*parse(GRPOArguments, GRPOConfig, arguments=words(given | options)))
    return run


@pytest.mark.slow
def test_a_kill_while_the_card_is_written_stops_no_later_start(tmp_path, monkeypatch):
    def killed(path, text):
        unfinished_file(path).write_text(text[:10])
        (path.parent / f"{MARKER}.17").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("trainers.cards.write_text", killed)
        train("pretrain", tmp_path)
    end_run(tmp_path / "pretrain")
    run = train("pretrain", tmp_path)
    assert (run / "model" / "README.md").is_file() and not list(run.rglob(".unfinished-*"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["es", "grpo", "pretrain"])
def test_a_card_holds_what_the_run_measured_and_no_file_a_token(tmp_path, monkeypatch, method):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = train(method, tmp_path, hub_token=TOKEN)
    card = ModelCard.load(run / "model" / "README.md")
    results = read_json(run / "results.json")
    assert card.data.pipeline_tag == "text-generation" and method in card.data.tags
    assert f"{results['parameters']:,} parameters" in card.text and f"Budget: {results['steps']:,} steps" in card.text
    assert "More Information Needed" not in card.content and "None" not in card.content
    if method != "pretrain":
        last = read_jsonl(run / "evaluations.jsonl")[-1]
        assert card.data.eval_results[0].metric_value == last["accuracy"]
        assert f"| {100 * last['accuracy']:.1f} % | {100 * last['low']:.1f}–{100 * last['high']:.1f} |" in card.text
        assert all(digest in card.text for digest in results["digests"]["data"].values())
    assert ("trainers.es.replay" in card.text) == (method == "es")
    if method == "grpo":
        assert ModelCard.load(run / "adapter" / "README.md").data.library_name == "peft"
    for file in run.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files asks for; what is committed goes to `files`."""

    files: dict[str, bytes] = {}

    def answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(
            {"name": "somebody", "type": "user", "auth": {}, "id": "somebody/run", "sha": "0" * 40, "siblings": []}
        )

    def do_POST(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(sent)["files"]]
            self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif "/commit/" in self.path:
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{constants.ENDPOINT}/somebody/run/commit/0", "commitOid": "0" * 40})
        else:
            self.answer({"url": f"{constants.ENDPOINT}/somebody/run", "id": "somebody/run", "name": "somebody/run"})

    def log_message(self, *_):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("method", ["es", "grpo"])
def test_a_finished_model_goes_to_the_hub_with_its_card(tmp_path, monkeypatch, capsys, method):
    asked = {"push_to_hub": True, "hub_model_id": "somebody/run", "hub_token": TOKEN}
    run = tmp_path / method
    if method == "grpo":  # complete before the upload was asked for
        train(method, tmp_path)
        (run / "model" / "README.md").unlink()
        with monkeypatch.context() as patch, pytest.raises(UserError, match="needs a login at the hub"):
            patch.setattr(hub, "HF_HUB_OFFLINE", False)
            patch.setattr(hub, "get_token", lambda: None)
            train(method, tmp_path, push_to_hub=True)
    Hub.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ENDPOINT", address)
    try:
        train(method, tmp_path, **asked)
        sent, Hub.files = Hub.files, {}
        train(method, tmp_path, **asked)
    finally:
        server.shutdown()
        server.server_close()
    folders = {"": run / "model"} | ({"adapter/": run / "adapter"} if method == "grpo" else {})
    written = {
        prefix + path.name: path.read_bytes()
        for prefix, folder in folders.items()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }
    assert Hub.files == sent == written and "README.md" in written
    assert capsys.readouterr().out.count("uploaded to") == 2
    assert TOKEN not in (run / "config.yaml").read_text()


def test_without_hub_or_login_nothing_begins(tmp_path, monkeypatch):
    def config(**options):
        return PretrainConfig(output_dir=str(tmp_path / "run"), push_to_hub=True, **options)

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set; unset it, or write push_to_hub: false"):
        pretrain(config())
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="needs a login at the hub, and there is none; log in"):
        check_hub(config())
    with pytest.raises(UserError, match="hub_model_id"):
        check_hub(config(hub_model_id="a/b/c"))
    assert not (tmp_path / "run").exists()
