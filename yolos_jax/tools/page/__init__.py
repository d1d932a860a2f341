"""A page in the browser: drop an image, see the boxes and the attention of the tokens behind them."""
