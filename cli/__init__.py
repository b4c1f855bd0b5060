"""posttrain-lab: one module per kind of subcommand; it starts recipes and analysis, and holds no logic."""
