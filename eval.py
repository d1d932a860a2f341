"""Evaluates a checkpoint; `python eval.py --help` says how."""

from yolos_jax.programs.eval import main

if __name__ == "__main__":
    main()
