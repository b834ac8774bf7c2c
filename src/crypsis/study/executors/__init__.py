"""Where the runs of a grid are computed: on this machine, by SLURM, or by Ray."""
