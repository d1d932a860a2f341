"""YOLOS (arXiv 2106.00666) in JAX: a plain Vision Transformer that detects objects.

`Detector` detects objects in images, and `load` returns the model as a Flax module. `train` trains a detector from a
recipe, `evaluate` computes its metrics, and `pretrain` trains an image classifier as its starting point.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolos_jax.errors import InputError
    from yolos_jax.images.reading import UnreadableImage
    from yolos_jax.inference.detections import Detections
    from yolos_jax.inference.detector import Detector
    from yolos_jax.inference.loading import load
    from yolos_jax.model.config import VARIANTS, YolosConfig
    from yolos_jax.model.yolos import Yolos
    from yolos_jax.tasks.classification.task import pretrain
    from yolos_jax.tasks.detection import evaluate, train

    __version__: str

__all__ = [
    "VARIANTS", "Detections", "Detector", "InputError", "UnreadableImage", "Yolos", "YolosConfig", "evaluate", "load",
    "pretrain", "train",
]  # fmt: skip

# Imported on first access, because data workers import yolos_jax.data and must not load jax.
_MODULES = {
    "Detections": "inference.detections", "Detector": "inference.detector", "load": "inference.loading",
    "InputError": "errors", "UnreadableImage": "images.reading",
    "VARIANTS": "model.config", "YolosConfig": "model.config", "Yolos": "model.yolos",
    "evaluate": "tasks.detection", "train": "tasks.detection", "pretrain": "tasks.classification.task",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MODULES:
        raise AttributeError(f"module 'yolos_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"yolos_jax.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    """The version of the installed package, or `0+unknown` in a checkout that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("yolos-jax")
    except metadata.PackageNotFoundError:
        return "0+unknown"
