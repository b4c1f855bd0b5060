import pytest
import torch

from analysis.__main__ import build_parser
from analysis.circuits.attribution import METHODS
from analysis.circuits.edges import attribute_edges
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.planted import model_batch, planted_llama
from analysis.circuits.planted_recovery import auroc, planted_edges, planted_recovery
from eval.errors import UserError
from eval.storage import read_json


PLANTED = ("a0.h1", "m0", "a1.h2")


def test_gates_and_edges_recover_what_was_planted_and_every_method_is_there():
    recovered = planted_recovery(PLANTED, seeds=(0, 1))
    assert recovered["circuit"] == ["a0.h1", "a1.h2", "m0"] and recovered["seeds"] == [0, 1]
    assert set(recovered["nodes"]) == {*METHODS, "learned gates"}
    assert recovered["nodes"]["learned gates"]["auroc"] == [1.0, 1.0]
    # Nodes outside score exactly 0: only a planted node that hurts, with a negative score, ranks below them.
    for entry in recovered["nodes"].values():
        assert all(0.5 < value <= 1.0 for value in entry["auroc"]) and len(entry["cpr"]) == 2
    for entry in recovered["edges"].values():
        assert entry["auroc"] == [1.0, 1.0] and len(entry["cpr"]) == 2
    with pytest.raises(UserError, match="no node m7"):
        planted_recovery(["m7"])
    with pytest.raises(UserError, match="no node to find but input"):
        planted_recovery(["input"])


def test_the_command_prints_and_stores_what_was_recovered(tmp_path, capsys):
    words = ["planted", "--nodes", *PLANTED, "--seeds", "1", "--examples", "4", "--output", str(tmp_path)]
    arguments = build_parser().parse_args(words)
    arguments.run(arguments)
    stored = read_json(tmp_path / "planted.json")
    assert stored["examples"] == 4 and stored["seeds"] == [0]
    lines = capsys.readouterr().out.splitlines()
    (gates,) = [line.split() for line in lines if "learned gates" in line]
    of_gates = stored["nodes"]["learned gates"]
    assert gates[2:] == [f"{of_gates[key][0]:.3f}" for key in ("auroc", "cpr")]


def test_the_planted_edges_are_those_with_a_score():
    model = CircuitModel(planted_llama(PLANTED))
    scored = attribute_edges(model, [model_batch(model, 8, 8)], "nap")
    assert planted_edges(model, PLANTED).equal(scored.scores != 0)


def test_auroc():
    positive = torch.tensor([True, False, True, False])
    assert auroc(torch.tensor([4.0, 1.0, 3.0, 2.0]), positive) == 1.0
    assert auroc(torch.tensor([1.0, 1.0, 1.0, 1.0]), positive) == 0.5
    assert auroc(torch.tensor([1.0, 4.0, 3.0, 2.0]), positive) == 0.25
    with pytest.raises(ValueError, match="inside and outside"):
        auroc(torch.ones(2), torch.tensor([True, True]))
