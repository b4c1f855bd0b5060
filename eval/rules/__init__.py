"""Rules by name: sets of valid strings that a small generative model can learn, or merely copy from."""

from dataclasses import fields
from difflib import get_close_matches

from eval.errors import UserError
from eval.rules.base import Rule, Split, is_member
from eval.rules.fixed_weight import FixedWeight
from eval.rules.latin_square import LatinSquare
from eval.rules.no_adjacent_ones import NoAdjacentOnes
from eval.rules.palindrome import Palindrome
from eval.rules.parity import GridParity, Parity
from eval.rules.permutation_matrix import PermutationMatrix
from eval.rules.queens import Queens
from eval.rules.raven import Raven
from eval.rules.spatial_relation import SpatialRelation
from eval.rules.sudoku import Sudoku
from eval.rules.threshold import Threshold
from eval.rules.xor_of_halves import XorOfHalves


__all__ = ["OPTIONS", "RULES", "Rule", "Split", "is_member", "make_rule", "rule_of"]

RULES: dict[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        Parity,
        GridParity,
        Threshold,
        FixedWeight,
        Palindrome,
        XorOfHalves,
        NoAdjacentOnes,
        PermutationMatrix,
        LatinSquare,
        Sudoku,
        Queens,
        Raven,
        SpatialRelation,
    )
}

# Every option of any rule. Which of them a rule takes are the fields of its class.
OPTIONS = ("length", "side", "group", "ones", "symbols")
# Longer strings than any model here reads; the number of valid strings has as many digits.
LARGEST = {"length": 4096, "side": 64, "group": 4096, "ones": 4096, "symbols": 4096}


def make_rule(name: str, **options: int | None) -> Rule:
    """The rule called `name`; options that are None count as not given.

    Raises `UserError` if there is no such rule, or if it needs an option that is missing or takes none of that name.
    """
    if name not in RULES:
        close = get_close_matches(str(name), RULES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"rule is {name!r}, not one of {', '.join(sorted(RULES))}{hint}")
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if not 1 <= value <= LARGEST[option]:
            raise UserError(f"rule {name}: {option} is {value}; give a number from 1 to {LARGEST[option]}")
    takes = [field.name for field in fields(RULES[name])]
    needed = f"it takes {', '.join(takes)}" if takes else "it takes no options"
    for option in given:
        if option not in takes:
            raise UserError(f"rule {name} takes no {option}; {needed}")
    for option in takes:
        if option not in given:
            raise UserError(f"rule {name} needs {option}; {needed}")
    return RULES[name](**given)


def rule_of(config: dict) -> Rule:
    """The rule of a run's config: its keys `rule`, `length`, `side`, `group`, `ones` and `symbols`."""
    return make_rule(config["rule"], **{option: config.get(option) for option in OPTIONS})
