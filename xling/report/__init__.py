"""How a matrix is shown: files, plot, terminal, W&B."""
