"""Trains a detector; see `python train.py --help`."""

from yolos_jax.programs.train import main

if __name__ == "__main__":
    main()
