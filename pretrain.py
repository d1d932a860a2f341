"""Pre-trains an image classifier; `python pretrain.py --help` says how."""

from yolos_jax.programs.pretrain import main

if __name__ == "__main__":
    main()
