"""One module per command of `python -m eval`; see `eval.command_line`."""
