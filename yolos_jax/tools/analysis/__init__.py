"""What a trained detector looks at, what its tokens mean, and what it costs."""
