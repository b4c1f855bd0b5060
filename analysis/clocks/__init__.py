"""When does a small generative model learn its rule, and when does it begin to copy its training data?

`study.measure_sweep` measures a folder of runs: their clocks (`striking`, `resampled`), medians and fits (`measure`),
what their models do inside (`opened_models`: score fields, mechanisms), and claims C1 to C7 (`claims`).
"""
