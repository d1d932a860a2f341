"""Implementations for GPUs and TPUs, and the choice between them."""
