"""Limits PyTorch to one thread: several test processes share the cores, and waiting threads would spin."""

import contextlib

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)
