"""One module per command of `python -m analysis`; see `eval.command_line`."""
