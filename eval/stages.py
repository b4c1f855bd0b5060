"""Where a command of several stages is: `stage 2 of 6: GRPO`, printed before each."""


class Stages:
    """names: of all stages, in the order in which they come. shown: whether this process prints."""

    def __init__(self, names: list[str], shown: bool = True):
        self.names, self.shown = names, shown

    def begin(self, name: str, finished: bool = False) -> None:
        """Say that the stage begins. finished: it was done by an earlier start."""
        if self.shown:
            done = ", finished already" if finished else ""
            print(f"stage {self.names.index(name) + 1} of {len(self.names)}: {name}{done}", flush=True)
