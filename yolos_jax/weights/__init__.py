"""Foreign weights and ours: reference YOLOS, Hugging Face YOLOS, and ViTs to start from, in files or on the hub.

One hub format joins them: numpy float32 arrays under the reference's
state-dict names, in PyTorch layouts. Nothing here needs PyTorch except reading
a `.pth`.
"""

from yolos_jax.weights.card import Facts, recorded_facts
from yolos_jax.weights.folder import export_huggingface
from yolos_jax.weights.hub import hub_model
from yolos_jax.weights.huggingface import from_huggingface, to_huggingface
from yolos_jax.weights.load import Loaded, load_all, load_detector, load_weights, with_classes
from yolos_jax.weights.processor import SHORT_SIDE, Sizes, sizes_of
from yolos_jax.weights.published import variant_of
from yolos_jax.weights.reference import from_reference, to_reference
from yolos_jax.weights.report import Report
from yolos_jax.weights.source import Source, read_source

__all__ = [
    "SHORT_SIDE",
    "Facts",
    "Loaded",
    "Report",
    "Sizes",
    "Source",
    "export_huggingface",
    "from_huggingface",
    "from_reference",
    "hub_model",
    "load_all",
    "load_detector",
    "load_weights",
    "read_source",
    "recorded_facts",
    "sizes_of",
    "to_huggingface",
    "to_reference",
    "variant_of",
    "with_classes",
]
