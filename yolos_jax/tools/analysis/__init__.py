"""Analysis of a trained detector: attention, tokens, errors and cost."""
