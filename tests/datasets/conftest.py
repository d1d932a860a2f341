"""Fixtures for all tests in this folder."""

from made_tfds import made, own

__all__ = ["made", "own"]
