"""Who made a folder: a marker in it, without which nothing is replaced or removed.

A run folder, and each folder that is made as a whole (`eval.storage.new_folder`), holds `.posttrain-lab.json`:

    run     the id of the run that it belongs to; "" outside of any run
    files   all that was written into it, by path; only in a folder that was made as a whole and is complete
    made    in a folder that a command writes single files into: their names

A folder may be removed if its marker names the run that it lies in and it holds no other file than those listed.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.errors import UserError


MARKER = ".posttrain-lab.json"
UNFINISHED = ".unfinished-"


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What the marker in `folder` says; None if there is none that can be read."""
    try:
        marker = json.loads((Path(folder) / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and isinstance(marker.get("run"), str) else None


def write_marker(folder: Path, run: str, files: list[str] | None = None) -> None:
    """Mark `folder` as made by `run`."""
    _write(folder, {"run": run} | ({} if files is None else {"files": files}))


def make_marked(folder: Path, run: str) -> None:
    """Make `folder`, marked as of `run`, in one step: a kill never leaves it under its name without its marker."""
    place = free_place(folder, UNFINISHED)
    place.mkdir()
    write_marker(place, run)
    place.rename(folder)


def _write(folder: Path, marker: dict[str, Any]) -> None:
    marker = {"made_by": "posttrain-lab"} | marker
    unfinished = Path(folder) / f"{MARKER}.{os.getpid()}"
    unfinished.write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, Path(folder) / MARKER)


def run_at(folder: Path) -> str:
    """The id of the run that `folder` lies in, or is; "" outside of any."""
    folder = Path(folder).absolute()
    markers = (read_marker(place) for place in (folder, *folder.parents))
    return next((marker["run"] for marker in markers if marker is not None), "")


def mark_run(folder: Path) -> str:
    """Make `folder` a run folder if it is none yet; returns the run's id."""
    marker = read_marker(folder)
    if marker is None or not marker["run"]:
        marker = (marker or {}) | {"run": secrets.token_hex(8)}
        _write(folder, marker)
    return marker["run"]


def files_in(folder: Path) -> list[str]:
    """The paths of all files in `folder`, sorted, from it on, without its own marker and what a kill left of one."""
    folder = Path(folder)
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in paths)
    return sorted(name for name in names if name != MARKER and not name.startswith(f"{MARKER}."))


def why_not_ours(folder: Path) -> str | None:
    """Why `folder` must not be removed, in words that follow its name; None if all of it was made by its run."""
    folder = Path(folder)
    if folder.is_symlink():
        return "is a link"
    if not folder.is_dir():
        return "is a file"
    marker = read_marker(folder)
    if marker is None:
        return None if not any(folder.iterdir()) else "was not made by this command"
    if marker["run"] != run_at(folder.absolute().parent):
        return "belongs to another run"
    if "files" not in marker:
        return None if folder.name.startswith((UNFINISHED, "checkpoint-")) else "was not made as a whole"
    foreign = sorted(set(files_in(folder)) - set(marker["files"]))
    return f"holds files that this command did not write ({_some(foreign)})" if foreign else None


def require_ours(folder: Path, option: str = "output") -> None:
    """Raise `UserError` if `folder` exists and must not be replaced. option: what the user gives another value."""
    if os.path.lexists(folder) and (reason := why_not_ours(folder)) is not None:
        raise UserError(f"{folder} {reason} and is not replaced; move it away, or choose another {option}")


def claim_files(folder: Path, names: list[str], in_run: bool = False) -> None:
    """Raise `UserError` if one of the files `names` is in `folder` already and no earlier command claimed it.

    From then on they may be replaced by a command that claims them again. in_run: `folder` may be a run's.
    """
    folder, marker = Path(folder), read_marker(folder) or {"run": ""}
    if not in_run and (marker["run"] or "files" in marker or (folder / "config.yaml").exists()):
        raise UserError(f"{folder} is the folder of a run, whose files are not replaced; choose another --output")
    made = marker.get("made", [])
    foreign = [name for name in names if name not in made and os.path.lexists(folder / name)]
    if foreign:
        raise UserError(
            f"{folder} holds files that this command did not write and does not replace ({_some(foreign)}); "
            "move them away, or choose another --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, marker | {"made": sorted({*made, *names})})


def free_place(path: Path, prefix: str) -> Path:
    """Where a folder can lie under another name beside `path`: what is there of this run is removed first."""
    for number in range(1, 1000):
        place = path.with_name(f"{prefix}{path.name}{'' if number == 1 else f'-{number}'}")
        if not os.path.lexists(place):
            return place
        if why_not_ours(place) is None:
            shutil.rmtree(place)
            return place
    raise UserError(f"{path.parent} is full of unfinished folders; remove those that begin with {prefix}{path.name}")


def remove_made(folder: Path) -> bool:
    """Remove `folder` if all of it was made by its run, else leave it; returns whether it is gone.

    It is renamed first: a kill in the middle of the removal must not leave half of it under its name.
    """
    folder = Path(folder)
    if (reason := why_not_ours(folder)) is not None:
        print(f"{folder} {reason} and is kept", flush=True)
        return False
    shutil.rmtree(folder.rename(free_place(folder, UNFINISHED)))
    return True


def unfinished_file(path: Path) -> Path:
    """Where the new content of the file `path` is written first: a name that holds the run's id."""
    return path.with_name(f"{UNFINISHED}{path.name}.{run_at(path.parent) or secrets.token_hex(8)}")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed start of the run in `folder` left half-written. What others have there stays."""
    run = run_at(folder)
    for leftover in list(_leftovers(Path(folder))):
        if leftover.is_dir():
            if _holds_nothing(leftover) or (
                (read_marker(leftover) or {}).get("run") == run and why_not_ours(leftover) is None
            ):
                shutil.rmtree(leftover)
        elif run and leftover.name.endswith(f".{run}"):
            leftover.unlink(missing_ok=True)


def _holds_nothing(folder: Path) -> bool:
    """Whether `folder` was made, and the kill came before its marker was: it is empty, or has half a marker."""
    if folder.is_symlink() or read_marker(folder) is not None:
        return False
    return all(path.name.startswith(f"{MARKER}.") for path in folder.iterdir())


def _leftovers(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        found = [name for name in folders if name.startswith(UNFINISHED)]
        folders[:] = [name for name in folders if name not in found]  # their content goes with them
        yield from (Path(place, name) for name in [*found, *files] if name.startswith(UNFINISHED))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
