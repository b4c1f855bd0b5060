"""Do the papers' claims about evolution strategies and GRPO hold, over seeds and conditions?

statements.CLAIMS: each claim, the number it is about, and its range. judge.judge: the verdicts over many Comparisons.
comparison.compare_models: what one of them measures.
"""
