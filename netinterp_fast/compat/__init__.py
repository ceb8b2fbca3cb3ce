"""The interfaces of other packages over this one: a program changes its imports and nothing else."""
