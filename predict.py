"""Detects in images; `python predict.py --help` says how."""

from yolos_jax.programs.predict import run

if __name__ == "__main__":
    run()
