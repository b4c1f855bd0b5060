import subprocess
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from trl import GRPOConfig

from eval.errors import UserError
from tests.recipe_files import ROOT
from trainers.arguments import (
    as_flat_dict,
    check_at_least,
    check_between,
    check_choice,
    check_positive,
    did_you_mean,
    from_yaml,
    parse,
    read_yaml,
)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Run:
    output_dir: str = field(metadata={"help": "Where the run folder lies."})
    steps: int = field(default=10, metadata={"help": "Number of updates."})
    sigma: float = field(default=0.01, metadata={"help": "Standard deviation of the noise."})
    antithetic: bool = True
    tasks: list[str] = field(default_factory=lambda: ["countdown"])
    sigmas: list[float] | None = None
    shaping: str = "zscore"
    reward: Literal["sum", "mean"] = "mean"
    colour: Colour = Colour.RED
    model: Path | None = None

    def __post_init__(self):
        check_positive("sigma", self.sigma)
        check_choice("shaping", self.shaping, ("zscore", "ranks"))
        if self.steps == 13:
            raise ValueError("13 steps\n  are not\n  supported")


@dataclass
class Task:
    size: int = 64
    limit: int | None = None


@dataclass
class Arm:
    EXAMPLE: ClassVar[str] = "{name: es, method: es, options: {sigma: 0.02}}"

    name: str
    method: Literal["es", "grpo", "sft"]
    alpha: float = 0.5
    config: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        check_positive("alpha", self.alpha)


@dataclass
class Study:
    arms: list[Arm] = field(default_factory=list, metadata={"help": "What is compared."})
    settings: dict[str, Any] = field(default_factory=dict)


def parse_yaml(tmp_path, text, *arguments, types=(Run, Task)):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return parse(*types, arguments=["--config", str(path), *arguments])


def message(error) -> str:
    """The text of the `UserError`, which is one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def test_yaml_goes_before_defaults_and_the_command_line_before_yaml(tmp_path):
    run, task = parse_yaml(tmp_path, "output_dir: runs/a\nsteps: 20\nsize: 8\n", "--steps", "30", "--no_antithetic")
    assert run == Run(output_dir="runs/a", steps=30, antithetic=False)
    assert task == Task(size=8)


def test_without_a_file(tmp_path):
    run, task = parse(
        Run, Task, arguments=["--output_dir=runs/a", "--tasks", "countdown", "arithmetic", "--limit", "3"]
    )
    assert run == Run(output_dir="runs/a", tasks=["countdown", "arithmetic"])
    assert task == Task(limit=3)


def test_arguments_default_to_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["es.py", "--output-dir", "runs/a"])
    assert parse(Run) == (Run(output_dir="runs/a"),)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("sigma: 1e-6", "sigma", 1e-6),  # PyYAML reads this as a string
        ("sigma: 1", "sigma", 1.0),
        ("sigmas: [1e-3, 2, 0.5]", "sigmas", [0.001, 2.0, 0.5]),
        ("sigmas: null", "sigmas", None),
        ("antithetic: no", "antithetic", False),
        ("tasks: [a, b]", "tasks", ["a", "b"]),
        ("reward: sum", "reward", "sum"),
        ("colour: blue", "colour", Colour.BLUE),
        ("model: recipes/tiny", "model", Path("recipes/tiny")),
    ],
)
def test_yaml_values_get_the_type_of_their_field(tmp_path, line, name, value):
    (run,) = parse_yaml(tmp_path, f"output_dir: x\n{line}\n", types=(Run,))
    assert getattr(run, name) == value
    assert type(getattr(run, name)) is type(value) or isinstance(value, Path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("stepps: 3", "unknown key 'stepps'; did you mean steps?"),
        ("zzz: 3", "unknown key 'zzz'"),
        ("env: {A: 1}", "unknown key 'env'"),
        ("learning-rate: 3", "unknown key 'learning-rate'"),
        ("steps: abc", "steps is abc, but it takes a whole number"),
        ("steps: 1.5", "steps is 1.5, but it takes a whole number"),
        ("steps: 1.0e+3", "steps is 1000.0, but it takes a whole number"),
        ("steps: true", "steps is true, but it takes a whole number"),
        ("steps: null", "steps is null, but it takes a whole number"),
        ("steps:", "steps is null, but it takes a whole number"),
        ("steps: {a: 1}", "steps is {a: 1}, but it takes a whole number"),
        ("sigma: [1]", "sigma is [1], but it takes a number"),
        ("sigma: small", "sigma is small, but it takes a number"),
        ("sigmas: [1, x]", "sigmas is [1, x], but it takes a list of a number or null"),
        ("antithetic: 1", "antithetic is 1, but it takes true or false"),
        ("antithetic: 'false'", "antithetic is 'false', but it takes true or false"),
        ("tasks: countdown", "tasks is countdown, but it takes a list of text; write [countdown]"),
        ("tasks: a, b,c", "tasks is a, b,c, but it takes a list of text; write [a, b, c]"),
        ("tasks: ['a,b', c]", "but it takes a list of text; write [a, b, c]"),
        ("tasks: [a, 1]", "tasks is [a, 1], but it takes a list of text"),
        ("shaping: no", "shaping is false, but it takes text; put quotes around it"),
        ("reward: max", "reward is max, but it takes one of sum, mean"),
        ("reward: maen", "reward is maen, but it takes one of sum, mean; did you mean mean?"),
        ("colour: green", "colour is green, but it takes one of red, blue"),
        ("steps: 1\nsteps: 2", "steps stands there 2 times"),
        ("steps: [1", "is not valid YAML"),
        ("sigma: -1", "sigma is -1.0; give a positive number"),
        ("sigma: .nan", "sigma is nan; give a positive number"),
        ("shaping: zscor", "shaping is 'zscor', not one of ranks, zscore; did you mean zscore?"),
        ("steps: 13", "13 steps are not supported"),
    ],
)
def test_mistakes_in_yaml_are_one_line(tmp_path, line, expected):
    with pytest.raises(UserError) as error:
        parse_yaml(tmp_path, f"output_dir: x\n{line}\n")
    assert expected in message(error)


ARMS = """
arms:
  - {name: es, method: es, options: {sigma: 1e-3, tasks: [a, b]}}
  - name: grpo
    method: grpo
    alpha: 2
    config: null
"""


def test_several_of_a_thing_are_a_list_of_mappings(tmp_path):
    (study,) = parse_yaml(tmp_path, ARMS, types=(Study,))
    expected = [Arm("es", "es", options={"sigma": "1e-3", "tasks": ["a", "b"]}), Arm("grpo", "grpo", 2.0)]
    assert study == Study(expected) and isinstance(study.arms[1].alpha, float)
    inline = "[{name: es, method: es}]"
    (study,) = parse_yaml(tmp_path, ARMS, "--arms", inline, "--settings", "{a: [1]}", types=(Study,))
    assert study == Study([Arm("es", "es")], {"a": [1]})
    assert parse_yaml(tmp_path, yaml.safe_dump(as_flat_dict(study)), types=(Study,)) == (study,)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{name: a, metod: es}", "arms[1]: unknown key 'metod'; did you mean method?"),
        ("{name: a, method: sf}", "arms[1]: method is sf, but it takes one of es, grpo, sft; did you mean sft?"),
        ("{name: a, method: es, alpha: x}", "arms[1]: alpha is x, but it takes a number"),
        ("{name: a, method: es, options: b=1}", "arms[1]: options is b=1, but it takes a mapping"),
        ("{name: a, method: es, options: null}", "arms[1]: options is null, but it takes a mapping"),
        ("{name: a, method: es, alpha: 0}", "arms[1]: alpha is 0.0; give a positive number"),
        ("{name: a}", "arms[1]: method missing; give a value"),
        ("{name: a, method: es, name: b}", "name stands there 2 times"),
        (
            "a es es.yaml sigma=0.02",
            "arms[1] is the text 'a es es.yaml sigma=0.02'; write it as a mapping, such as "
            "{name: es, method: es, options: {sigma: 0.02}}",
        ),
    ],
)
def test_mistakes_in_a_mapping_are_one_line_with_their_place(tmp_path, entry, expected):
    with pytest.raises(UserError) as error:
        parse_yaml(tmp_path, f"arms:\n  - {{name: first, method: es}}\n  - {entry}\n", types=(Study,))
    assert str(tmp_path / "run.yaml") in message(error) and expected in message(error)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--arms", "a es es.yaml"], "--arms is a es es.yaml, but it takes a list of mappings; write [{name: es,"),
        (["--arms", "[a es es.yaml]"], "--arms[0] is the text 'a es es.yaml'; write it as a mapping, such as {name"),
        (["--arms", "[{name: a, metod: es}]"], "--arms[0]: unknown key 'metod'; did you mean method?"),
        (["--arms", "[{name: a"], "--arms '[{name: a' is not valid YAML"),
    ],
)
def test_mistakes_in_inline_yaml_are_one_line(words, expected):
    with pytest.raises(UserError) as error:
        parse(Study, arguments=words)
    assert expected in message(error)


def test_a_list_of_names_is_several_words_on_the_command_line():
    with pytest.raises(UserError) as error:
        parse(Run, arguments=["--output_dir", "x", "--tasks", "countdown, yes_no,boolq"])
    assert message(error) == "--tasks has 'countdown, yes_no,boolq'; write --tasks countdown yes_no boolq"


def test_a_file_goes_before_its_base(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "first.yaml").write_text("output_dir: first\nsteps: 1\nmodel: a\nsigmas: [1]\n")
    (tmp_path / "shared" / "second.yaml").write_text("base: first.yaml\nsteps: 2\nsigma: 0.5\n")
    text = "base: shared/second.yaml\nsigma: 0.25\nsigmas: null\n"
    (run,) = parse_yaml(tmp_path, text, "--model", "b", types=(Run,))
    assert run == Run(output_dir="first", steps=2, sigma=0.25, model=Path("b"))
    options = {"output_dir": "first", "steps": 2, "model": "a", "sigmas": None, "sigma": 0.25}
    assert read_yaml(tmp_path / "run.yaml") == options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: missing.yaml", "there is no config file FOLDER/missing.yaml, the base of FOLDER/run.yaml"),
        ("base: run.yaml", "FOLDER/run.yaml: base: FOLDER/run.yaml leads back to itself"),
        ("base: circle.yaml", "FOLDER/circle.yaml: base: FOLDER/run.yaml leads back to itself"),
        ("base: wrong.yaml\nsteps: 3", "FOLDER/wrong.yaml: steps is a, but it takes a whole number"),
        ("base: right.yaml\nsteps: null", "FOLDER/run.yaml: steps is null, but it takes a whole number"),
        ("base: [right.yaml]", "base is [right.yaml], but it takes the path of a YAML file"),
    ],
)
def test_mistakes_in_a_base_are_one_line(tmp_path, text, expected):
    (tmp_path / "circle.yaml").write_text("base: run.yaml\n")
    (tmp_path / "wrong.yaml").write_text("steps: a\n")
    (tmp_path / "right.yaml").write_text("output_dir: x\n")
    with pytest.raises(UserError) as error:
        parse_yaml(tmp_path, text, types=(Run,))
    assert expected.replace("FOLDER", str(tmp_path)) in message(error)


def test_overrides_go_before_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("output_dir: x\nsteps: 2\nsize: 8\n")
    assert from_yaml(path, (Run, Task), {"steps": 5, "tasks": ["a"], "limit": 3}) == (
        Run(output_dir="x", steps=5, tasks=["a"]),
        Task(size=8, limit=3),
    )
    for overrides, expected in [
        ({"stepps": 5}, f"the options for {path}: unknown key 'stepps'; did you mean steps?"),
        ({"steps": "five"}, f"the options for {path}: steps is five, but it takes a whole number"),
        ({"sigma": -1}, f"{path}: sigma is -1.0; give a positive number"),
    ]:
        with pytest.raises(UserError) as error:
            from_yaml(path, (Run, Task), overrides)
        assert expected in message(error)
    path.write_text("steps: 2\n")
    with pytest.raises(UserError, match="run.yaml: output_dir missing; give a value"):
        from_yaml(path, (Run,), {})


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_without_keys_is_refused(tmp_path, text):
    with pytest.raises(UserError) as error:
        parse_yaml(tmp_path, text)
    assert "holds no `key: value` lines" in message(error)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"steps: \xff\xfe")
    for path, expected in [
        (tmp_path / "missing.yaml", "there is no config file"),
        (tmp_path, "cannot read the config file"),
        (tmp_path / "binary.yaml", "cannot read the config file"),
    ]:
        with pytest.raises(UserError) as error:
            parse(Run, arguments=["--config", str(path)])
        assert expected in message(error)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--stepps", "3"], "unknown argument --stepps; did you mean --steps?"),
        (["--stepps=3"], "unknown argument --stepps=3; did you mean --steps?"),
        (["--step", "3"], "unknown argument --step; did you mean --steps?"),  # no abbreviations
        (["more"], "unknown argument more"),
        (["--steps", "abc"], "argument --steps: invalid int value: 'abc'"),
        (["--steps"], "argument --steps: expected one argument"),
        (["--antithetic", "maybe"], "argument --antithetic"),
        (["--reward", "max"], "argument --reward: invalid choice: 'max'"),
        (["--config"], "argument --config: expected one argument"),
        (["--config", "a.yaml", "--config", "b.yaml"], "--config is given 2 times"),
        (["--shaping", "none"], "shaping is 'none', not one of ranks, zscore"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments, expected):
    with pytest.raises(UserError) as error:
        parse(Run, Task, arguments=["--output_dir", "x", *arguments])
    assert expected in message(error)


def test_a_missing_required_option_is_named():
    with pytest.raises(UserError) as error:
        parse(Run, arguments=[])
    assert "required: --output_dir" in message(error)


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Run, Task, arguments=["--help"])
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for text in (
        "--config FILE.yaml",
        "Where the run folder lies.",
        "Number of updates. (default: 10)",
        "--limit LIMIT",
    ):
        assert text in printed


@pytest.mark.slow
def test_a_command_ends_with_one_line_and_status_2(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dataclasses import dataclass\n"
        "from eval.errors import exit_with_one_line\n"
        "from trainers.arguments import parse\n"
        "@dataclass\nclass Run:\n    steps: int = 1\n"
        "exit_with_one_line(lambda: print(parse(Run)))\n"
    )
    ended = subprocess.run(
        [sys.executable, script, "--steps", "abc"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == "error: argument --steps: invalid int value: 'abc'; --help explains every option\n"


def test_as_flat_dict_is_the_inverse_of_parse(tmp_path):
    configs = (Run(output_dir="x", sigma=1e-6, model=Path("a/b"), colour=Colour.BLUE, sigmas=[0.5]), Task(limit=3))
    flat = as_flat_dict(*configs)
    assert flat["colour"] == "blue" and flat["model"] == "a/b" and flat["limit"] == 3
    assert parse_yaml(tmp_path, yaml.safe_dump(flat)) == configs


@pytest.mark.parametrize("batches", [{"steps_per_generation": 2}, {"generation_batch_size": 16}, {}])
def test_as_flat_dict_of_trl_arguments_is_read_back(tmp_path, batches):
    config = GRPOConfig(
        output_dir=str(tmp_path / "run"),
        use_cpu=True,
        bf16=False,
        learning_rate=1e-6,
        report_to="none",
        model_init_kwargs={"attn_implementation": "eager"},
        hub_token="secret",
        save_strategy="no",
        **batches,
    )
    flat = as_flat_dict(config)
    assert flat["learning_rate"] == 1e-6 and flat["save_strategy"] == "no"
    assert "secret" not in str(flat)
    (again,) = parse_yaml(tmp_path, yaml.safe_dump(flat), types=(GRPOConfig,))
    assert as_flat_dict(again) == flat
    assert again.generation_batch_size == config.generation_batch_size


def test_did_you_mean():
    assert did_you_mean("sigam", ["sigma", "steps"]) == "; did you mean sigma?"
    assert did_you_mean("xyz", ["sigma", "steps"]) == ""


def test_checks_accept_what_is_right_and_refuse_the_rest():
    check_choice("shaping", "ranks", {"ranks": 1, "zscore": 2})
    check_positive("sigma", 1e-9)
    check_at_least("members", 2, 2)
    check_between("share", 0.0, 0, 1)
    check_between("share", 1.0, 0, 1)
    nan, infinity = float("nan"), float("inf")
    for check, arguments in [
        (check_choice, ("rank", ("ranks", "zscore"))),
        *[(check_positive, (value,)) for value in (0, -1, nan, infinity)],
        *[(check_at_least, (value, 2)) for value in (1, nan, infinity)],
        *[(check_between, (value, 0, 1)) for value in (-0.1, 1.1, nan, infinity)],
    ]:
        with pytest.raises(UserError, match="^name is ") as error:
            check("name", *arguments)
        message(error)


def test_a_byte_order_mark_is_no_part_of_a_config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("output_dir: runs/x\nsteps: 3\n", encoding="utf-8-sig")
    assert read_yaml(path) == {"output_dir": "runs/x", "steps": 3}


@pytest.mark.parametrize("value", [".nan", ".inf", "1e400", "nan"])
def test_a_number_is_finite(tmp_path, value):
    path = tmp_path / "run.yaml"
    path.write_text(f"output_dir: runs/x\nsigmas: [0.1, {value}]\n")
    with pytest.raises(UserError, match="sigmas is .*finite"):
        parse(Run, arguments=["--config", str(path)])
    with pytest.raises(UserError, match="sigma is (nan|inf)"):
        parse(Run, arguments=["--output_dir", "x", "--sigma", value.replace(".", "")])
