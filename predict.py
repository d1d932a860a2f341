"""Detects in images; `python predict.py --help` says how."""

from yolos_jax.programs.predict import main

if __name__ == "__main__":
    main()
