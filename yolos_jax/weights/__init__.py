"""Loads and converts local or hub weights of yolos-jax, the YOLOS reference, Hugging Face and pretrained ViTs.

The intermediate format of all conversions is numpy float32 arrays with the reference's state-dict names, in PyTorch
layout. PyTorch is required only to read `.pth` files. The most commonly used functions are exported here.
"""

from yolos_jax.weights.folder import export_huggingface as export_huggingface
from yolos_jax.weights.hub import hub_model as hub_model
from yolos_jax.weights.image_processor import SHORT_SIDE as SHORT_SIDE
from yolos_jax.weights.image_processor import sizes_of as sizes_of
from yolos_jax.weights.load import load_weights as load_weights
from yolos_jax.weights.model_card import recorded_provenance as recorded_provenance
from yolos_jax.weights.published import variant_of as variant_of
from yolos_jax.weights.published import with_classes as with_classes
from yolos_jax.weights.sharing import push_folder as push_folder
