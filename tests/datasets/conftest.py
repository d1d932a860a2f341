"""Shared fixtures."""

from made_tfds import made, own

__all__ = ["made", "own"]
