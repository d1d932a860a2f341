"""Foreign weights and ours: reference YOLOS, Hugging Face YOLOS and DeiT/timm classifiers.

One hub format joins them: numpy float32 arrays under the reference's
state-dict names, in PyTorch layouts. Nothing here needs PyTorch except reading
a `.pth`.
"""

from yolos_jax.weights.huggingface import export_huggingface, from_huggingface, to_huggingface
from yolos_jax.weights.load import load_weights, with_classes
from yolos_jax.weights.reference import from_reference, to_reference
from yolos_jax.weights.report import Report
from yolos_jax.weights.source import Source, read_source

__all__ = [
    "Report",
    "Source",
    "export_huggingface",
    "from_huggingface",
    "from_reference",
    "load_weights",
    "read_source",
    "to_huggingface",
    "to_reference",
    "with_classes",
]
