"""Analyses that read the prompts of a grid again, not only its matrix."""
