"""Trains a detector; `python train.py --help` says how."""

from yolos_jax.programs.train import main

if __name__ == "__main__":
    main()
