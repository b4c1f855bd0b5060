"""posttrain-lab analyse: checkpoints and adapters trained anywhere, from the command to the page."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from analysis.__main__ import build_parser, main
from analysis.analyse import measure
from analysis.commands.analyse import asked_of
from analysis.geometry.checkpoints import open_checkpoints
from analysis.report import build
from eval.errors import UserError
from eval.storage import read_json
from tests.tiny import random_checkpoint


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base, a checkpoint without tokenizer, a run folder, an adapter, and the same adapter merged."""
    folder = tmp_path_factory.mktemp("models")
    base = random_checkpoint(folder / "base")
    for seed, name in ((1, "bare"), (2, "run/model")):
        model = AutoModelForCausalLM.from_pretrained(base)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        model.save_pretrained(folder / name)
    torch.manual_seed(3)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(folder / "adapter")
    shutil.copytree(base, folder / "merged")
    _, merged = open_checkpoints(base, [folder / "adapter"])
    save_file(dict(merged.items()), folder / "merged" / "model.safetensors", metadata={"format": "pt"})
    return folder


SMALL = ["--max-new-tokens", "3", "--device", "cpu", "--top", "2"]
ON_A_TASK = ["--task", "countdown", "--size", "4", "--kl-prompts", "3", "--line-size", "4", "--points", "3"]


def command(models, output, *words, base="base"):
    return ["analyse", "--base", str(models / base), "--output", str(output), *SMALL, *words]


def analyse(models, output, *words, base="base"):
    main(command(models, output, *words, base=base))


def measure_only(models, output, *words):
    """The command without its page, which takes most of its time here."""
    measure(asked_of(build_parser().parse_args(command(models, output, *words))), output, about={})


def given(models, **places):
    return ["--checkpoints", *(f"{name}={models / place}" for name, place in places.items())]


@pytest.mark.slow
def test_weights_alone_of_one_adapter(models, tmp_path, capsys):
    analyse(models, tmp_path / "out", *given(models, es="adapter"))
    results = read_json(tmp_path / "out" / "results.json")
    assert results["asked"] == ["geometry", "spectra", "kl"] and results["kind"] == "comparison"
    assert results["kl"]["es"]["built-in-prompts"]["forward"]["prompts"] == "first 30 of built-in-prompts.txt"
    text = (tmp_path / "out" / "report" / "report.md").read_text()
    assert text.startswith("# What training changed in es\n\nTrained from ")
    for absent in ("ES ", "GRPO", "Es moved", "Learning", "straight lines", "Accuracy", "andom walk", "chosen"):
        assert absent not in text
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    for untrue in ("Missing from", "Not measured", "started again"):
        assert untrue not in page
    assert str(tmp_path / "out" / "report" / "index.html") in capsys.readouterr().out


@pytest.mark.slow
def test_every_measure_takes_adapters_and_folders_without_a_tokenizer(models, tmp_path):
    parts = ["--parts", "geometry", "spectra", "evaluation", "kl", "lines", "kinds"]
    for name in ("adapter", "merged"):
        measure_only(models, tmp_path / name, *given(models, mine=name, theirs="bare"), *ON_A_TASK, *parts)
    ours, merged = (read_json(tmp_path / name / "results.json") for name in ("adapter", "merged"))
    assert ours["methods"] == ["mine", "theirs"]
    assert list(ours["connectivity"]["lines"]) == ["base|mine", "base|theirs", "mine|theirs"]
    asked = ["geometry", "spectra", "evaluation", "written", "kl", "connectivity", "connectivity_kinds"]
    assert ours["asked"] == asked
    for section in ours["asked"]:
        assert ours[section] == merged[section], section
    build(tmp_path / "adapter")
    text = (tmp_path / "adapter" / "report" / "report.md").read_text()
    assert "Trained from" in text and "(trained)" not in text and "| Model | Length |" in text


@pytest.mark.slow
def test_the_plane_and_the_probes_take_adapters_too(models, tmp_path):
    on = ["--tasks", "countdown", "--size", "2", "--points", "3", "--plane-points", "2", "--random-directions", "1"]
    parts = ["--scales", "1", "--parts", "plane", "probes", "--max-new-tokens", "2", "--device", "cpu"]
    for name in ("adapter", "merged"):
        places = given(models, mine=name, theirs="bare")
        base, output = str(models / "base"), str(tmp_path / name)
        main(["connectivity", "--base", base, "--output", output, *places, *on, *parts])
    ours, merged = (read_json(tmp_path / name / "results.json") for name in ("adapter", "merged"))
    assert ours["plane"] == merged["plane"] and ours["probes"] == merged["probes"]


def test_started_again_it_says_what_changed_and_keeps_what_did_not(models, tmp_path, capsys):
    output, places = tmp_path / "out", given(models, a="bare", b="run")
    measure_only(models, output, *places, "--parts", "geometry")
    measure_only(models, output, *places, "--parts", "spectra")
    first = read_json(output / "results.json")
    assert first["asked"] == ["geometry", "spectra"], "an earlier section of the same checkpoints stays"
    capsys.readouterr()
    measure_only(models, output, *places, "--parts", "spectra", "--top", "3")
    said = capsys.readouterr().out
    assert "spectra was measured with another top (2, now 3); measuring it again" in said
    measure_only(models, output, *given(models, a="adapter", b="run"), "--parts", "geometry")
    assert "geometry was measured with other files of a; measuring it again" in capsys.readouterr().out
    last = read_json(output / "results.json")
    assert last["asked"] == ["geometry"] and "spectra" not in last, "nothing of other checkpoints stays"


def test_what_does_not_fit_is_one_line_before_any_work(models, tmp_path):
    def refused(*words, base="base"):
        with pytest.raises(UserError) as error:
            analyse(models, tmp_path / "out", *words, base=base)
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
        return str(error.value)

    other = random_checkpoint(tmp_path / "qwen", "qwen2")
    assert "only in" in refused("--checkpoints", f"a={other}")
    assert "is an adapter of" in refused(*given(models, a="adapter"), base="bare")
    few = [*given(models, a="bare"), "--task", "countdown", "--kl-prompts", "9", "--prompts"]
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    assert "--kl-prompts is 9, but" in refused(*few, str(tmp_path / "few.txt"))
    assert "--parts lines needs a task" in refused(*given(models, a="bare"), "--parts", "lines")
    assert "--data needs --reward" in refused(*given(models, a="bare"), "--data", "rows.jsonl")
    assert "neither a local folder nor a hub model" in refused("--checkpoints", "a=no/model")
    # The same tensors under another architecture.
    shutil.copytree(models / "bare", tmp_path / "mistral")
    config = json.loads((tmp_path / "mistral" / "config.json").read_text()) | {"model_type": "mistral"}
    (tmp_path / "mistral" / "config.json").write_text(json.dumps(config))
    assert "is a mistral and" in refused("--checkpoints", f"a={tmp_path / 'mistral'}")


def test_own_data_with_fewer_rows_than_asked_and_results_of_others(models, tmp_path):
    splits = ["train", "validation"] + 6 * ["test"]
    rows = [{"prompt": f"{i} + 1 =", "answer": str(i + 1), "split": split} for i, split in enumerate(splits)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["--data", str(tmp_path / "rows.jsonl"), "--reward", "contains"]
    with pytest.raises(UserError, match="--size is 7, but the test split of rows has 6 rows"):
        analyse(models, tmp_path / "out", *given(models, a="bare"), *own, "--size", "7")
    measure_only(models, tmp_path / "out", *given(models, a="bare"), *own, "--points", "3")
    results = read_json(tmp_path / "out" / "results.json")
    assert results["evaluation"]["a"]["rows"]["total"] == 6 and results["connectivity"]["size"] == 6
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text('{"kind": "comparison", "training": {}}')
    with pytest.raises(UserError, match="holds a run or the results of another command"):
        analyse(models, tmp_path / "other", *given(models, a="bare"))
