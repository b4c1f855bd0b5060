"""The limits that both a training and an analysis go by: when a generative model has learned its rule, and copies.

`analysis/criteria.py` has those that only analyses need. A limit stands in one of the two files and nowhere else.
"""

# "Reliably exceeds 0.9" (arXiv 2605.10019 as restated by others): share of samples that obey the rule.
RULE_LEARNED = 0.9
# One evaluation above a limit may be luck of the draw; two in a row are "reliably".
EVALUATIONS_IN_A_ROW = 2
# Share of copies beyond the control set's at which memory has struck; this lab's, and 5, 20 and 50 % stand beside it.
COPIES = 0.1
# A sample is nearer to one training string than to any other if its distance is under this share of the second's.
GAP_RATIO = 1 / 3
