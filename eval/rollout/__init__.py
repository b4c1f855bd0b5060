"""Engines that turn weights and prompts into completions, for one model or a population."""
