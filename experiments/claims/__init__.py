"""The paper's claims and the questions it leaves open, an experiment in each module.

`python -m experiments.claims` runs them; each has a config in configs/claims/ and a section in experiments/README.md.
"""
