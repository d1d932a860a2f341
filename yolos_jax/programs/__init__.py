"""The programs: flags to library calls. The files train.py, eval.py, ... beside this package start them."""
