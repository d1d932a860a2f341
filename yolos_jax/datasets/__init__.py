"""What people have, as examples for training and evaluation. No jax here."""
