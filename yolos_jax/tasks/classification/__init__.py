"""Pre-training of a classifier that initialises a detector: data, augmentation, loss and metrics."""
