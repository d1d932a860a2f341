"""Converts weights; `python convert.py --help` says how."""

from yolos_jax.programs.convert import run

if __name__ == "__main__":
    run()
