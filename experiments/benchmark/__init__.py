"""Time to target: Gauss–Newton and ILLS against every peer, one config of configs/benchmark/ for each problem.

`python -m experiments.benchmark` runs the problems and reports on what is complete.
"""
