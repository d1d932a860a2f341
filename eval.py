"""Evaluates a checkpoint; see `python eval.py --help`."""

from yolos_jax.programs.eval import main

if __name__ == "__main__":
    main()
