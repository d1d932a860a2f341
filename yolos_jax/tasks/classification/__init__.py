"""The classifier that a detector starts from: its data, its views, its loss and its scores. No jax in this file."""
