"""Pre-training of a classifier for a detector: data, augmentation, loss and metrics. No jax in this file."""
