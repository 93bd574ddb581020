"""Running a plan: what every runner does with a stage; on this machine (local/), or as jobs of SLURM (slurm/)."""
