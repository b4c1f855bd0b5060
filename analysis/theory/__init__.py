"""What do a random walk and a quadratic reward predict for a run of evolution strategies?

random_walk: the formulas. predictions.predict: a finished run beside them, and which of their assumptions it breaks.
"""
