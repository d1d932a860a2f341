"""Looks at a data set before training; `python check_data.py --help` says how."""

from yolos_jax.programs.check_data import run

if __name__ == "__main__":
    run()
