"""Everything that looks at finished runs and checkpoints. Imports `eval`, never `trainers`."""

import eval as _eval  # noqa: F401  before any library: it keeps them quiet
