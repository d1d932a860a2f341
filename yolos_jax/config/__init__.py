"""Settings of recipes, and the command line that changes them."""
