"""Writes the detector as a portable program; `python export.py --help` says how."""

from yolos_jax.programs.export import run

if __name__ == "__main__":
    run()
