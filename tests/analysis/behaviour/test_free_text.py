"""analysis/behaviour/free_text.py and eval/perplexity.py against closed forms."""

import json
import math

import pytest
import torch

from analysis.__main__ import main as analysis
from analysis.behaviour.free_text import text_kl
from eval.__main__ import main as evaluation
from eval.errors import UserError
from eval.intervals import ratio_with_interval
from eval.perplexity import BUILTIN_FILE, in_batches, passage_pieces, perplexity, read_passages
from eval.rollout.hf import HFEngine


PASSAGES = ["abc abc abc", "the quick brown fox", "12345 67890 and more of it"]
TOKENS = sum(len(passage) - 1 for passage in PASSAGES)


def constant(favourite: int, ratio: float):
    """Changes a model so that each next token has odds of `ratio` for `favourite` against any other, whatever came.

    The last norm's output is made the same vector u everywhere: every block and the embedding of each token add u's
    direction alone. Here: all embeddings equal e_0 but for what the (untied) head reads.
    """

    def change(model):
        embedding = model.model.embed_tokens.weight
        embedding.zero_()
        embedding[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        # The state is e_0 everywhere, and after the norm sqrt(width) * weight_0.
        model.model.norm.weight.zero_()
        model.model.norm.weight[0] = 1 / math.sqrt(model.config.hidden_size)
        model.lm_head.weight.zero_()
        model.lm_head.weight[favourite, 0] = math.log(ratio)

    return change


@pytest.fixture
def known(tiny_checkpoint):
    """Two models whose distribution of the next token is known: uniform, and 9 times as much on the letter `a`."""

    def write(name, ratio):
        from trainers.tiny_tokenizer import character_tokenizer

        favourite = character_tokenizer().convert_tokens_to_ids("a")
        return tiny_checkpoint(name, seed=0, change=constant(favourite, ratio), tied=False)

    return write


def test_perplexity_and_kl_are_those_of_the_closed_form(known):
    uniform, skewed = known("uniform", 1.0), known("skewed", 9.0)
    engine = HFEngine.from_pretrained(uniform, "cpu")
    size = engine.model.config.vocab_size
    result = perplexity(engine, PASSAGES, batch_size=2)
    assert result["perplexity"] == pytest.approx(size, rel=1e-5)
    assert result["perplexity_low"] == pytest.approx(size, rel=1e-5) == result["perplexity_high"]
    assert result["tokens"] == TOKENS and result["passages"] == 3
    read = sum(map(len, PASSAGES))
    assert result["bits_per_byte"] == pytest.approx(TOKENS * math.log2(size) / read, rel=1e-5)

    found = text_kl(uniform, {"still": uniform, "skewed": skewed}, PASSAGES, 2, device="cpu")
    assert found["still"]["forward"]["per_token"] == found["still"]["reverse"]["per_token"] == 0.0
    total = size + 8  # of the skewed one's odds
    log_ratios = [(1, math.log(9 * size / total)), (size - 1, math.log(size / total))]  # of q / p, and how many
    forward = -sum(count / size * log for count, log in log_ratios)
    reverse = sum(count * (9 if count == 1 else 1) / total * log for count, log in log_ratios)
    assert found["skewed"]["forward"]["per_token"] == pytest.approx(forward, rel=1e-4)
    assert found["skewed"]["reverse"]["per_token"] == pytest.approx(reverse, rel=1e-4)
    assert found["skewed"]["forward"]["direction"] == "KL(base || model)"
    letters = sum(passage[1:].count("a") for passage in PASSAGES)
    nats = math.log(total) - letters / TOKENS * math.log(9)
    assert found["skewed"]["perplexity"]["model"]["nats_per_token"] == pytest.approx(nats, rel=1e-5)
    assert found["skewed"]["perplexity"]["base"]["perplexity"] == pytest.approx(size, rel=1e-5)


def test_intervals_resample_passages_and_pieces_are_put_together(tiny_checkpoint):
    base, moved = tiny_checkpoint("base", seed=0), tiny_checkpoint("moved", seed=1)
    engine = HFEngine.from_pretrained(base, "cpu")
    whole = perplexity(engine, PASSAGES, batch_size=3, seed=5)
    sums, counts = [], []
    for passage in PASSAGES:
        ids = torch.tensor([engine.tokenizer.encode(passage)])
        with torch.no_grad():
            rows = engine.model(ids).logits[0].double().log_softmax(-1)
        sums.append(-sum(rows[i, ids[0, i + 1]].item() for i in range(ids.shape[1] - 1)))
        counts.append(ids.shape[1] - 1)
    mean, low, high = ratio_with_interval(sums, counts, 5)
    assert low < mean < high
    assert [whole[name] for name in ("nats_per_token", "nats_per_token_low", "nats_per_token_high")] == pytest.approx(
        [mean, low, high], rel=1e-5
    )
    # Pieces of 5 tokens predict 4 each; what they add up to belongs to their passage.
    pieces = passage_pieces(engine.tokenizer, PASSAGES, longest=5)
    assert [number for number, _ in pieces] == [0] * 2 + [1] * 4 + [2] * 5
    assert sum(len(numbers) for numbers, _ in in_batches(pieces, 4)) == len(pieces)
    cut = perplexity(engine, PASSAGES, batch_size=4, longest=5)
    assert cut["tokens"] == sum(len(completion) for _, (_, completion) in pieces)
    one = text_kl(base, {"moved": moved}, PASSAGES, 1, device="cpu")["moved"]
    assert text_kl(base, {"moved": moved}, PASSAGES, 3, device="cpu")["moved"]["forward"][
        "per_token"
    ] == pytest.approx(one["forward"]["per_token"], rel=1e-5)


def test_the_commands_write_what_the_functions_measure(tiny_checkpoint, tmp_path, capsys):
    base, moved = tiny_checkpoint("base", seed=0), tiny_checkpoint("moved", seed=1)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(PASSAGES), encoding="utf-8")
    out = ["--output", str(tmp_path / "out")]
    common = ["--base", str(base), "--checkpoints", f"moved={moved}", "--device", "cpu", "--text", str(text)]
    analysis(["kl", *common, *out])
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["kl_text"] == text_kl(base, {"moved": moved}, PASSAGES, 64, device="cpu")
    assert "kl" not in results
    analysis(["kl", *common, *out])
    assert "holds kl_text of these checkpoints" in capsys.readouterr().out
    analysis(["kl", *common, *out, "--tasks", "yes_no", "--prompts", "2", "--max-new-tokens", "2"])
    assert {"kl", "kl_text"} <= json.loads((tmp_path / "out/results.json").read_text()).keys()

    evaluation(["perplexity", "--model", str(base), "--text", str(text), "--output", str(tmp_path / "perplexity")])
    written = json.loads((tmp_path / "perplexity/results.json").read_text())
    assert written["perplexity"] == pytest.approx(results["kl_text"]["moved"]["perplexity"]["base"]["perplexity"])
    assert list(written["digests"]["data"]) == [str(text)]


def test_the_builtin_text():
    passages = read_passages("builtin")
    assert BUILTIN_FILE.stat().st_size == 99_720
    assert len(passages) == 93 and min(map(len, passages)) >= 300
    assert all(passage.isascii() and "\n" not in passage for passage in passages)
    assert "public domain" in (BUILTIN_FILE.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"), [("one passage", "has 1 passages"), ("", "has 0 passages"), (None, "cannot read")]
)
def test_texts_that_cannot_be_measured_on(tmp_path, text, message):
    if text is not None:
        (tmp_path / "text.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_passages(str(tmp_path / "text.txt"))


def test_a_passage_of_one_token_is_refused(tiny_checkpoint):
    engine = HFEngine.from_pretrained(tiny_checkpoint("base", seed=0), "cpu")
    with pytest.raises(UserError, match="passage 2 .* has no two tokens"):
        perplexity(engine, ["long enough", "x"], 2)


def test_another_tokenizer_is_refused(tiny_checkpoint):
    base, moved = tiny_checkpoint("base", seed=0), tiny_checkpoint("moved", seed=1)
    file = moved / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="encodes the text differently"):
        text_kl(base, {"moved": moved}, PASSAGES, 2, device="cpu")
