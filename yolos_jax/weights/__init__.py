"""Loads and converts weights: ours, reference YOLOS, Hugging Face YOLOS, and ViTs to start from, local or on the hub.

Conversion uses one intermediate format: numpy float32 arrays with the reference's state-dict names, in PyTorch layouts.
Only reading a `.pth` needs PyTorch. The rest of the package uses the names exported here.
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
