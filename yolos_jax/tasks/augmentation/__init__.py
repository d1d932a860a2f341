"""Augmentation that the reference does not have: operations on colour and shape, and presets. Without jax."""
