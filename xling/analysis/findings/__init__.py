"""What a matrix says: rankings of sources, home against abroad, shares of variance, power, recommendations."""
