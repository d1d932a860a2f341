"""Examines a detector; `python analyze.py --help` says how."""

from yolos_jax.programs.analyze import main

if __name__ == "__main__":
    main()
