import pytest

from eval.command_line import OneLineParser
from eval.errors import UserError
from eval.paths import expand_home, expand_words, require_path


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/at/ada")


def test_home_in_values():
    assert expand_home("~/runs") == "/at/ada/runs"
    assert expand_home("~") == "/at/ada"
    assert expand_home(["~/a", {"model": "~/b", "size": 3}]) == [
        "/at/ada/a",
        {"model": "/at/ada/b", "size": 3},
    ]
    for text in ("runs/~", "~ 5", "a ~/b", ""):
        assert expand_home(text) == text


def test_home_in_words():
    assert expand_words(["--output=~/runs", "es=~/es", "~/base", "--x", "a=b"]) == [
        "--output=/at/ada/runs",
        "es=/at/ada/es",
        "/at/ada/base",
        "--x",
        "a=b",
    ]
    parser = OneLineParser()
    parser.add_argument("--output")
    assert parser.parse_args(["--output", "~/runs"]).output == "/at/ada/runs"


@pytest.mark.parametrize("words", [["--output", ""], ["--output="], ["--output_dir", " "], ["--output", "", "--x"]])
def test_an_empty_path_is_refused(words):
    with pytest.raises(UserError, match="is empty; give the path of a folder"):
        expand_words(words)


def test_a_home_folder_that_is_not_there():
    with pytest.raises(UserError, match="no such home folder"):
        require_path("~nobody-of-this-name/runs", "output_dir")
