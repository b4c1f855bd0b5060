"""Small models that generate the strings of a rule: denoisers, next-token models and masked discrete diffusion."""
