"""Prepares a COCO folder as a TFDS data set; `python prepare_tfds.py --help` says how."""

from yolos_jax.programs.prepare_tfds import run

if __name__ == "__main__":
    run()
