"""PyTorch computes on one thread: several test processes share the cores, and threads that wait for each other spin."""

import contextlib

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)
