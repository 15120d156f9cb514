"""Experiments with jills: one script each, fed by a file in `configs/`. They use jills; jills never uses them."""

import os

# On the CPU, LAPACK comes from OpenBLAS, whose threads fight XLA's. Read once, before JAX is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
