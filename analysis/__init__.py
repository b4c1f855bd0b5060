"""Everything that looks at finished runs and checkpoints. Imports `eval`, never `trainers`."""
