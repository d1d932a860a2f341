"""Measurements that the documentation quotes; `python -m benchmarks.NAME --help` tells how to repeat one."""
