"""Reads users' data sets as examples for training and evaluation. No jax here."""
