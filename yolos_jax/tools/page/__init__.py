"""A web page that shows the detections in an image and the attention of the DET tokens behind them."""
