"""What was computed once from the same inputs is not computed again: stages in files, sections of results.json.

Inputs are JSON: options, and of files and large tables a digest. They are kept beside what was computed from them, and
compared as text, because the order of names counts.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.digests import folder_digest
from eval.folders import check_writable
from eval.results_file import Results, kind_of, read_results_file, write_results
from eval.stages import Stages
from eval.storage import read_json, write_json


# Sections whose checkpoints are steps of one run, not methods to be compared.
ALONG_A_RUN = ("trajectory",)
# What the numbers depend on beside the checkpoints, and the measurement itself.
Measurement = tuple[dict[str, Any], Callable[[], dict]]


def stage(
    folder: Path, name: str, inputs: dict[str, Any], compute: Callable[[], Any], stages: Stages | None = None
) -> Any:
    """The result of `compute`, as JSON reads it back, from <folder>/<name>.json if the same inputs stand there.

    The file is {"inputs": inputs, "result": result}, written when `compute` has returned; other inputs compute it
    again, which is said in one line. A file of an older version is the result alone and counts as finished, because
    nothing tells what it was computed from but the run folder's own options, which must be the same in any case.

    stages: those of a command, of which this is one; without them the name is said when it is computed.
    """
    path = Path(folder) / f"{name}.json"
    if path.exists():
        stored = read_json(path)
        if not (isinstance(stored, dict) and stored.keys() == {"inputs", "result"}):
            return _finished(stored, name, stages)
        changed = changed_inputs(stored["inputs"], inputs)
        if not changed:
            return _finished(stored["result"], name, stages)
        print(f"{path} was computed from other {', '.join(changed)}; computing it again", flush=True)
    if stages is None:
        print(f"stage {name}", flush=True)
    else:
        stages.begin(name)
    write_json(path, {"inputs": inputs, "result": compute()})
    return read_json(path)["result"]


def _finished(result: Any, name: str, stages: Stages | None) -> Any:
    if stages is not None:
        stages.begin(name, finished=True)
    return result


def changed_inputs(earlier: dict[str, Any], inputs: dict[str, Any]) -> list[str]:
    """The names of the inputs that differ, added and removed ones too."""
    return [key for key in earlier | inputs if json.dumps(earlier.get(key)) != json.dumps(inputs.get(key))]


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, in place of an input that is too large to keep."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def measure_sections(
    output: Path,
    base: Path,
    checkpoints: dict[str, Path],
    sections: dict[str, Measurement],
    recompute: bool,
    digests: dict[str, str] | None = None,
) -> None:
    """Measure and store every section that OUTPUT/results.json does not hold for the same files and options already.

    sections: {section: (options, measurement)}. Batch size and device are no such options: they change the time that
    a measurement takes. recompute: measure in any case. digests: `folder_digests` of base and checkpoints, if they
    are known.

    Raises UserError as `folder_digests` and `read_results_file` do, and if nothing can be written to `output`.
    """
    check_writable(output, "--output")
    folders = {"base": base, **checkpoints}
    digests = folder_digests(folders) if digests is None else digests
    for section, (options, measure) in sections.items():
        inputs = {
            "checkpoints": digests,
            "options": options,
            "folders": {name: str(path) for name, path in folders.items()},
        }
        if not recompute and is_stored(output, section, inputs):
            print(
                f"{output / 'results.json'} holds {section} of these checkpoints and options already; "
                "--recompute measures it again"
            )
        else:
            store(output, section, measure(), checkpoints, inputs)


def is_stored(output: Path, section: str, inputs: dict[str, Any]) -> bool:
    """Whether results.json holds this section for the same names, files and options, wherever the files lay."""
    results = read_results(output / "results.json")
    earlier = results.get("inputs", {}).get(section)
    return section in results and earlier is not None and changed_inputs(earlier, inputs) in ([], ["folders"])


def store(output: Path, section: str, measured: dict, checkpoints: dict[str, Path], inputs: dict[str, Any]) -> None:
    """Put `measured` under `section` of OUTPUT/results.json and leave the other sections as they are.

    "methods" lists the names of all checkpoints in the file, in the order in which they came, but for those of
    `ALONG_A_RUN`; "inputs" keeps what each section was measured from.
    """
    path = output / "results.json"
    results = read_results(path)
    names = [] if section in ALONG_A_RUN else checkpoints
    results["methods"] = list(dict.fromkeys([*results.get("methods", []), *names]))
    results["inputs"] = results.get("inputs", {}) | {section: inputs}
    add_section(path, results, section, measured)


def add_section(path: Path, results: Results, section: str, measured: dict) -> None:
    """Write `results` with one section more to `path`.

    A file keeps its kind, but for that of a single training: what was measured on it makes a page on demand.
    """
    kind = "comparison" if kind_of(results) == "training" else kind_of(results)
    write_results(path, kind, results | {"kind": kind, section: measured})
    print(f"wrote {section} to {path}")


def read_results(path: Path) -> Results:
    """What earlier commands stored; {} if there is nothing yet. Raises UserError if the file is not JSON."""
    return read_results_file(path) if path.exists() else {}


def without_other_checkpoints(results: Results, digests: dict[str, str]) -> Results:
    """`results` without the sections that were measured on other checkpoints of the same names, such as shorter runs.

    digests: of the checkpoints as they are now, by name.
    """
    other = [
        section
        for section, inputs in results.get("inputs", {}).items()
        if any(digests.get(name, digest) != digest for name, digest in inputs["checkpoints"].items())
    ]
    kept = {key: value for key, value in results.items() if key not in other}
    if other:
        kept["inputs"] = {key: value for key, value in results["inputs"].items() if key not in other}
    return kept


def folder_digests(folders: dict[str, Path]) -> dict[str, str]:
    """SHA-256 over the weights, configuration and tokenizer of each checkpoint folder, of which base is the first.

    Raises UserError if a folder holds no weights, or the checkpoints are of different models.
    """
    # Here, because a misspelt option or --help should not wait for torch.
    from tqdm import tqdm

    from analysis.geometry.checkpoints import open_checkpoints

    base, *others = folders.values()
    open_checkpoints(base, others)
    return {name: folder_digest(path) for name, path in tqdm(folders.items(), desc="checksums", unit="checkpoint")}
