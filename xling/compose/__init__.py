"""From the command line to composed cells, by Hydra."""
