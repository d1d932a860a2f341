"""Hides PyTorch from processes that tests start: tensorboardX would import it, which takes 1.5 s of CPU time."""

raise ImportError("tests start processes without PyTorch")
