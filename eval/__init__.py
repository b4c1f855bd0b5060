"""Everything that generates and scores. Imports neither `trainers` nor `analysis`."""

from eval.quiet import quiet_imports


quiet_imports()
