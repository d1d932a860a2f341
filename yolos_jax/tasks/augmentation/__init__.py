"""Augmentation beyond the reference's: operations on colours and on shapes, and presets of them. No jax here."""
