"""Augmentation beyond the reference's: colour and geometric operations, and presets. No jax here."""
