"""A recipe under `accelerate launch`, with a kill inside one of its saves: `launched.py recipes/es.py ...`."""

import sys
from pathlib import Path


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from eval.errors import exit_with_one_line
    from tests.chaos.inject import install_from_environment
    from tests.recipe_files import load_script

    install_from_environment()
    sys.argv = sys.argv[1:]
    exit_with_one_line(load_script(sys.argv[0]).main)
