"""What changed in what the model does?

kl.kl_drift, kl.kl_matrices: how far its distribution drifted. lines.task_landscape: reward and loss as a function of
the weights, taken by lines.straight_lines, lines.part_lines (barriers), plane.plane and probes.probes (sharpness).
"""
