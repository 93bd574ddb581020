"""The matrix as figures: heat maps, curves, relations."""
