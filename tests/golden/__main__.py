"""`python -m tests.golden [NAME ...]`: make the golden files anew, all or those named."""

import sys
import tempfile
from pathlib import Path

from tests.golden import RUNS, run, write


for name in sys.argv[1:] or RUNS:
    with tempfile.TemporaryDirectory() as folder:
        write(name, run(name, Path(folder) / name))
    print(f"wrote tests/golden/{name}.json", flush=True)
