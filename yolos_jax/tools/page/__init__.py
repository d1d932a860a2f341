"""A page in the browser: drop an image, see the boxes, and what the tokens behind them looked at."""
