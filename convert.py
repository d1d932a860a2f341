"""Converts weights; see `python convert.py --help`."""

from yolos_jax.programs.convert import main

if __name__ == "__main__":
    main()
