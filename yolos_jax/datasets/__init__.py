"""Reads users' data sets for training and evaluation. Does not import jax."""
