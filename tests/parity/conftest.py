"""Limits PyTorch to one thread, because several test processes share the cores and idle threads would spin."""

import contextlib

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)
