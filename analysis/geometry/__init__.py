"""How far, where and in which direction did a training move the weights?

checkpoints: the one reader of checkpoint folders. updates.update_geometry: norms and angles. spectra.update_spectra:
ranks and subspaces. trajectory.drift: the way from step to step. rounding: what low precision makes of an update.
"""
