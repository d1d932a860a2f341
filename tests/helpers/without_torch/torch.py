"""Stands for PyTorch in processes that tests start: tensorboardX imports it where it is installed, for 1.5 CPU-s."""

raise ImportError("tests start processes without PyTorch")
