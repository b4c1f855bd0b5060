"""What is installed is what constraints.txt pins, and what pyproject.toml allows."""

import re
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from tests.recipe_files import ROOT


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n") if line]
    pinned = {}
    for line in lines:
        if line.startswith("#"):
            continue
        name, found_version = re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()
        pinned[name.lower().replace("_", "-")] = found_version
    return pinned


def test_every_line_pins_one_exact_public_version():
    # `+cpu`, a local version, would keep a GPU user from the build with CUDA; `fullmatch` above refuses it.
    assert len(pins()) > 50


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_installed_version_is_the_pin_and_within_bounds(requirement):
    installed = version(requirement.name)
    assert installed.split("+")[0] == pins()[requirement.name.lower()]
    assert requirement.specifier.contains(installed)


def test_every_direct_dependency_has_a_lower_bound():
    assert [str(requirement) for requirement in DIRECT if ">=" not in str(requirement.specifier)] == []
