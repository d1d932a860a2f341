"""Pre-trains an image classifier; see `python pretrain.py --help`."""

from yolos_jax.programs.pretrain import main

if __name__ == "__main__":
    main()
