"""Measurements that the documentation quotes; `python -m benchmarks.NAME --help` tells how to repeat one."""

import os

# jax would otherwise take three quarters of a GPU's memory, of which PyTorch needs some in the same process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
