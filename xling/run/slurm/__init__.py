"""The same plan on a SLURM cluster: arrays of jobs instead of worker processes. Imports no torch."""
