"""Detects objects in images; see `python predict.py --help`."""

from yolos_jax.programs.predict import main

if __name__ == "__main__":
    main()
