"""What a machine with a GPU shows of the lab in ten minutes: see docs/gpu-check.md."""
