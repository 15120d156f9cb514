"""Short scripts to start from, each `python -m experiments.examples.NAME`: what the estimators do with usual tasks."""
