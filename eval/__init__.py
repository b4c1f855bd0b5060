"""Everything that generates and scores. Imports neither `trainers` nor `analysis`."""
