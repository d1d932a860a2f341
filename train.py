"""Trains a detector; `python train.py --help` says how."""

from yolos_jax.programs.train import run

if __name__ == "__main__":
    run()
