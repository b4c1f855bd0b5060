"""Every limit that decides a verdict or a word of a report, once, each with its reason.

Claims, sentences, clocks and criteria of a study import from here, so that a sentence cannot contradict a verdict.
Shares of 1, nats per token, factors and standard deviations as stated. `eval/criteria.py` has the limits that
trainings go by as well. A value that meets its limit exactly meets it.
"""

# Intervals and verdicts
CONFIDENCE = 0.95  # the field's convention
MIN_SEEDS = 5  # Student's interval over four seeds is already 1.3 times as wide as over five
CHAINS_FOR_AN_INTERVAL = 4  # chains of trainings; a bootstrap of three or fewer repeats itself

# Two models on the same problems
SIMILAR_ACCURACY = 0.05  # what an interval over 500 problems can tell apart
MATCHED_ACCURACY = 0.02  # checkpoints that count as equally accurate; the paper's own comparisons differ by as much
NON_INFERIOR = 0.05  # margin of "matches or exceeds": the difference may lie this far below 0
RETAINED = 0.02  # accuracy that may be lost on tasks that nobody trained and still count as kept
EQUAL_BUDGET = 1.05  # factor between completions; less than one evaluation interval
REWARD_BARRIER = 0.05  # on a line; the standard error of a share of 200 problems is 0.035, so that 0.02 is noise
# Share of what the references cost on the even line, on a line: a gap in nats alone says nothing, as the untrained
# model costs only a few hundredths more than a trained one.
LOSS_BARRIER = 0.1
EXCLUDED_REWARD = 0.10  # "no barrier" also needs the whole interval of the reward within this of the straight line

# Two updates
SAME_LENGTH = 1.1  # factor; a random walk of a hundred steps misses its expected length by less
DIFFERENT_LENGTH = 2.0  # factor from which aligned updates are still called different weights
MUCH_LARGER = 10.0  # factor that "much further" takes
NEARLY_ORTHOGONAL = 0.1  # absolute cosine: 84 degrees
PARTLY_ALIGNED = 0.5  # 60 degrees
ALIGNED = 0.9  # 26 degrees
CHANCE = 3.0  # standard deviations of the cosine of random directions; one in 370 lies beyond
# Factor between an update and random directions of its length. Three directions are drawn, whose mean has a standard
# error of a third and more, so that 1.25 could not be told from 1.
LIKE_RANDOM = 2.0
LINEAR_DRIFT = 0.99  # R^2 of squared length against steps
SPARSE = 0.05  # share of parameters that change, of which "sparse" is said
ROUGHLY = 1.5  # factor within which a theory without free parameters is called close
SETTLED = 0.1  # share of its range that a reward may still move when it is called settled

# Circuits
SMALLEST_GAP = 0.05  # of CPR between gold and floor, below which a recovered share is a quotient of noise

# Clocks, claims C1 to C7 of arXiv 2605.10019
AGREEMENT = 0.75  # share of ordered pairs of runs that have the order; half is chance
INVARIANT_FACTOR = 3.0  # C3: between the memory clocks of rules that count as equal; seeds alone give up to 2
EQUAL_BITS = 0.1  # C3: between the log2 of the valid strings of rules that are compared; a factor of 1.07 in strings
NEARLY_LINEAR = (0.75, 1.35)  # C4: slopes of log tau_mem against log N; the whole interval lies inside, or outside
SLOPE_SIZES = 3  # C4: sizes N within a phase that carry a slope; two points make a line across anything
BASIN_FACTOR = 1.1  # C7: by which a radius must grow, or exceed another; two steps of the noise grid
RECOVERY_GAP = 0.2  # share of strings that return, by which training strings must exceed held-out ones
