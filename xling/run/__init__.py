"""Running stages: one stage with its claim here, this machine in local/, a cluster in slurm/."""
