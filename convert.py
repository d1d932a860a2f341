"""Converts weights; `python convert.py --help` says how."""

from yolos_jax.programs.convert import main

if __name__ == "__main__":
    main()
