"""Multiple choice whose answer stands in the question: which colour was the thing just said to have.

Wiegreffe et al. 2024, "Answer, Assemble, Ace" (arXiv 2407.15018). The counterfactual gives the choices other letters
and leaves everything else where it was, so that the answer is the letter now at the right choice.
"""

import random
import string
from dataclasses import dataclass

from eval.circuit_tasks.base import CircuitTask, Example
from eval.tasks.generate import Problem


COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white", "brown", "pink", "grey", "gold")
# A thing comes in the colours that nobody would wonder at.
THINGS = {
    "apple": ("red", "green", "yellow"),
    "banana": ("yellow", "green"),
    "bear": ("brown", "black", "white"),
    "brick": ("red", "orange", "brown"),
    "bus": ("red", "yellow", "green", "blue"),
    "carrot": ("orange", "purple"),
    "cat": ("black", "white", "grey", "orange"),
    "cherry": ("red", "black"),
    "cloud": ("white", "grey", "pink"),
    "coal": ("black", "grey"),
    "coat": ("black", "blue", "brown", "green"),
    "coin": ("gold", "grey", "brown"),
    "crow": ("black", "grey"),
    "cup": ("white", "blue", "red"),
    "curtain": ("white", "green", "purple"),
    "door": ("brown", "white", "green", "red"),
    "dress": ("red", "blue", "pink", "black"),
    "frog": ("green", "brown"),
    "grape": ("green", "purple", "black"),
    "hat": ("black", "brown", "red"),
    "horse": ("brown", "black", "white"),
    "leaf": ("green", "yellow", "red", "brown"),
    "lemon": ("yellow", "green"),
    "mouse": ("grey", "white", "brown"),
    "pencil": ("yellow", "red", "blue"),
    "pig": ("pink", "black"),
    "ring": ("gold", "white"),
    "rose": ("red", "white", "pink", "yellow"),
    "shirt": ("white", "blue", "black"),
    "sofa": ("grey", "brown", "red"),
    "tomato": ("red", "green", "yellow"),
    "wall": ("white", "grey", "yellow"),
}
CHOICES = 4

SHORT_COLOURS = tuple(
    """
    ash bay cob dun fog gum hay ink jet kid lac oak red sky tan wax
    """.split()
)
SHORT_THINGS = ("pen", "cup", "hat", "car", "box", "bag", "toy", "map")
SHORT_CHOICES = 3


@dataclass(frozen=True)
class CopyColour(CircuitTask):
    """Four choices behind the letters A to D, other letters in the counterfactual.

    Identity is the thing with its choices.
    """

    name: str = "copy_colour"

    def draw(self, generator: random.Random) -> Problem:
        thing = generator.choice(list(THINGS))
        colour = generator.choice(THINGS[thing])
        others = generator.sample([other for other in COLOURS if other != colour], CHOICES - 1)
        return {
            "thing": thing,
            "colour": colour,
            "choices": generator.sample([colour, *others], CHOICES),
            "letters": list(string.ascii_uppercase[:CHOICES]),
            "other_letters": generator.sample(string.ascii_uppercase[CHOICES:], CHOICES),
        }

    def identity(self, problem: Problem) -> str:
        return " ".join([problem["thing"], problem["colour"], *sorted(problem["choices"])])

    def prompt(self, problem: Problem, letters: list[str]) -> str:
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, problem["choices"], strict=True))
        thing, colour = problem["thing"], problem["colour"]
        return f"The {thing} is {colour}. What color is the {thing}?\n{listed}\nAnswer:"

    def example(self, problem: Problem) -> Example:
        right = problem["choices"].index(problem["colour"])
        return Example(
            clean=self.prompt(problem, problem["letters"]),
            corrupted=self.prompt(problem, problem["other_letters"]),
            answer=f" {problem['letters'][right]}",
            wrong=f" {problem['other_letters'][right]}",
        )


@dataclass(frozen=True)
class CopyColourShort(CopyColour):
    """Three choices behind any letters; colours of three letters, no two with the same first."""

    name: str = "copy_colour_short"

    def draw(self, generator: random.Random) -> Problem:
        choices = generator.sample(SHORT_COLOURS, SHORT_CHOICES)
        letters = generator.sample(string.ascii_uppercase, 2 * SHORT_CHOICES)
        return {
            "thing": generator.choice(SHORT_THINGS),
            "colour": generator.choice(choices),
            "choices": choices,
            "letters": letters[:SHORT_CHOICES],
            "other_letters": letters[SHORT_CHOICES:],
        }

    def prompt(self, problem: Problem, letters: list[str]) -> str:
        listed = ", ".join(f"{letter} {choice}" for letter, choice in zip(letters, problem["choices"], strict=True))
        return f"{problem['thing']} {problem['colour']}; {listed}; {problem['thing']}?"
