"""Nothing is replaced or removed that was not made here: a user's files lie about in every test."""

import json

import pytest

from eval.errors import UserError
from eval.ownership import MARKER, claim_files, mark_run, read_marker, remove_leftovers, remove_made, run_at
from eval.storage import new_folder, write_json, write_text


def make(folder, **files):
    with new_folder(folder) as unfinished:
        for name, text in files.items():
            (unfinished / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != MARKER}


def test_a_folder_made_here_is_replaced_as_a_whole(tmp_path):
    make(tmp_path / "model", weights="1", old="x")
    assert read_marker(tmp_path / "model") == {"made_by": "posttrain-lab", "run": "", "files": ["old", "weights"]}
    make(tmp_path / "model", weights="2")
    assert content(tmp_path / "model") == {"weights": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "model").mkdir()
    make(tmp_path / "model", weights="1")
    assert content(tmp_path / "model") == {"weights": "1"}


@pytest.mark.parametrize("foreign", ["notes.txt", "figures/mine.svg", ".hidden"])
def test_a_folder_with_a_foreign_file_is_refused_before_the_work(tmp_path, foreign):
    make(tmp_path / "report", index="1")
    write_text(tmp_path / "report" / foreign, "mine")
    with pytest.raises(UserError, match=rf"report holds files that this command did not write \({foreign}\)"):
        with new_folder(tmp_path / "report"):
            pytest.fail("worked in vain")
    assert (tmp_path / "report" / foreign).read_text() == "mine"
    assert (tmp_path / "report" / "index").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_foreign_file_that_comes_during_the_work_stays(tmp_path):
    make(tmp_path / "report", index="1")
    with pytest.raises(UserError, match="notes.txt"):
        with new_folder(tmp_path / "report"):
            (tmp_path / "report" / "notes.txt").write_text("mine")
    assert content(tmp_path / "report") == {"index": "1", "notes.txt": "mine"}


def test_folders_files_and_links_of_others_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name, reason in (("folder", "was not made"), ("file", "is a file"), ("link", "is a link"), ("broken", "link")):
        with pytest.raises(UserError, match=f"{name} .*{reason}.*move it away"):
            make(tmp_path / name, weights="1")
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "mine"


def test_the_folder_of_another_run_is_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        mark_run(tmp_path / name)
    make(tmp_path / "one" / "model", weights="1")
    (tmp_path / "one" / "model").rename(tmp_path / "two" / "model")
    with pytest.raises(UserError, match="belongs to another run"):
        make(tmp_path / "two" / "model", weights="2")
    with pytest.raises(UserError, match="two belongs to another run"):
        make(tmp_path / "two", weights="2")
    (tmp_path / "two").rename(tmp_path / "moved")
    assert run_at(tmp_path / "moved" / "model") == run_at(tmp_path / "one") != run_at(tmp_path / "moved")


def test_unfinished_names_of_a_user_are_left_alone(tmp_path):
    (tmp_path / ".unfinished-model").mkdir()
    (tmp_path / ".unfinished-model" / "chapter.txt").write_text("mine")
    (tmp_path / ".unfinished-results.json").write_text("mine")
    mark_run(tmp_path)
    make(tmp_path / "model", weights="1")
    make(tmp_path / "model", weights="2")
    write_json(tmp_path / "results.json", 1)
    remove_leftovers(tmp_path)
    assert content(tmp_path / ".unfinished-model") == {"chapter.txt": "mine"}
    assert (tmp_path / ".unfinished-results.json").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 5


def test_leftovers_of_the_run_are_removed_and_those_of_runs_below_are_not(tmp_path):
    run, below = tmp_path, tmp_path / "es"
    below.mkdir()
    for folder in (run, below):
        run_id = mark_run(folder)
        (folder / f".unfinished-config.yaml.{run_id}").write_text("half")
        (folder / ".unfinished-model").mkdir()
        (folder / ".unfinished-model" / MARKER).write_text(json.dumps({"run": run_id}))
    remove_leftovers(run)
    assert sorted(path.name for path in run.iterdir()) == [MARKER, "es"]
    assert len(list(below.iterdir())) == 3


def test_a_made_folder_is_removed_unless_a_foreign_file_is_in_it(tmp_path, capsys):
    mark_run(tmp_path)
    make(tmp_path / "step_1", weights="1")
    make(tmp_path / "step_2", weights="2")
    (tmp_path / "step_2" / "notes.txt").write_text("mine")
    assert remove_made(tmp_path / "step_1")
    assert not remove_made(tmp_path / "step_2")
    assert "step_2 holds files that this command did not write (notes.txt) and is kept" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, "step_2"]


def test_single_files_are_replaced_by_the_command_that_claimed_them(tmp_path):
    claim_files(tmp_path, ["results.json", "countdown.jsonl"])
    (tmp_path / "results.json").write_text("1")
    claim_files(tmp_path, ["results.json", "yes_no.jsonl"])
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(UserError, match=r"\(table.md\)"):
        claim_files(tmp_path, ["table.csv", "table.md"])
    assert read_marker(tmp_path)["made"] == ["countdown.jsonl", "results.json", "yes_no.jsonl"]


def test_single_files_in_the_folder_of_a_run(tmp_path):
    mark_run(tmp_path)
    with pytest.raises(UserError, match="folder of a run"):
        claim_files(tmp_path, ["results.json"])
    claim_files(tmp_path, ["gallery.html"], in_run=True)
    assert read_marker(tmp_path)["made"] == ["gallery.html"] and run_at(tmp_path)
