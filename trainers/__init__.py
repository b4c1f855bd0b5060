"""Everything that changes weights. Imports `eval`, never `analysis`."""
