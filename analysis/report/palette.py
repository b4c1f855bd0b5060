"""The colours of figures inside a page: each as it is drawn, darker where it is text, and brighter in the dark.

Files of figures are drawn for white paper. Inside a page their colours become variables of its style sheet, which a
reader's preference for a dark page then changes. Colours that are not named here, as those of maps, stay.
"""

import re


# {as drawn: (as text on white, drawn in the dark, as text in the dark)}; text has a contrast of at least 4.5.
PALETTE = {
    "#222222": ("#222222", "#e4e6ea", "#e4e6ea"),
    "#ffffff": ("#ffffff", "#15181d", "#ffffff"),
    "#6e6e6e": ("#666666", "#a4a8ae", "#b4b8be"),
    "#8a8a8a": ("#666666", "#8f949c", "#a9aeb6"),
    "#7a7a7a": ("#666666", "#9aa0a8", "#b4b8be"),
    "#9a9a9a": ("#666666", "#858b94", "#a9aeb6"),
    "#b8b8b8": ("#666666", "#6d737c", "#a9aeb6"),
    "#c4c4c4": ("#666666", "#575d67", "#a9aeb6"),
    "#d9d9d9": ("#666666", "#3f454e", "#a9aeb6"),
    "#e6e6e6": ("#666666", "#2c3138", "#a9aeb6"),
    "#ececec": ("#666666", "#3a4048", "#a9aeb6"),
    "#0072b2": ("#0068a3", "#4fa9e2", "#63b4e8"),
    "#d55e00": ("#b04d00", "#ee8434", "#f2924a"),
    "#009e73": ("#00755a", "#2bbd92", "#3cc79d"),
    "#cc79a7": ("#a44079", "#dd93bd", "#e2a2c6"),
    "#e69f00": ("#8a5f00", "#eeb03a", "#f0b84e"),
    "#56b4e9": ("#1b6fa5", "#6cc0ee", "#7cc8f1"),
}


def page_colours(svg: str) -> str:
    """The drawing with variables for its colours."""
    parts = re.split(r"(<text.*?</text>)", svg, flags=re.DOTALL)
    return "".join(variables(part, "t" if i % 2 else "m") for i, part in enumerate(parts))


def variables(svg: str, kind: str) -> str:
    """kind: "m" of marks, "t" of text."""
    return re.sub(r"(fill|stroke): (#[0-9a-f]{6})", lambda found: variable(found, kind), svg)


def variable(found: re.Match[str], kind: str) -> str:
    what, shade = found.groups()
    return f"{what}: var(--{kind}{shade[1:]})" if shade in PALETTE else f"{what}: {shade}"


def style_sheet() -> str:
    """The variables: for white paper, and for a dark screen."""
    light = "".join(f"--m{shade[1:]}:{shade};--t{shade[1:]}:{text};" for shade, (text, *_) in PALETTE.items())
    dark = "".join(f"--m{shade[1:]}:{mark};--t{shade[1:]}:{text};" for shade, (_, mark, text) in PALETTE.items())
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
