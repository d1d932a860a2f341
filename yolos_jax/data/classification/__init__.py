"""The data of image classification: pictures with a class each, their random views, and batches of them. No jax."""
