"""Running a plan on this machine, in worker processes."""
