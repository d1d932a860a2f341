"""The benchmarks quoted in the documentation; `python -m benchmarks.NAME --help` explains how to run one."""

import os

# By default, jax reserves three quarters of a GPU's memory, but PyTorch needs some of it in the same process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
