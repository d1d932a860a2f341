"""Analyses a detector; see `python analyze.py --help`."""

from yolos_jax.programs.analyze import main

if __name__ == "__main__":
    main()
