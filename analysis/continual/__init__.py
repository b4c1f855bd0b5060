"""What does a model keep while it is trained on one task after the other, and what predicts what it forgets?

metrics: accuracy matrices, their metrics with intervals. drift.drift_and_forgetting: what goes with the loss.
summary.summarise: all of it for one sequential run, of which chain.measure_chain measures each chain.
"""
