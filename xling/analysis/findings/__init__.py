"""Findings about a matrix: rankings of sources, home against abroad, shares of variance, power, recommendations."""
