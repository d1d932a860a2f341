"""The measurements in the documentation; `python -m benchmarks.NAME --help` explains how to repeat one."""

import os

# jax would otherwise take three quarters of a GPU's memory, and PyTorch needs some of it in the same process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
