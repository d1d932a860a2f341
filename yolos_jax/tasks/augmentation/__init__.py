"""Augmentation that the reference does not have: colour and shape operations, and presets. Does not import jax."""
