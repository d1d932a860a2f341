"""The data of image classification: images with a class each, their random views, and batches of them. No jax."""
