"""YOLOS (arXiv 2106.00666) in JAX: a plain Vision Transformer that detects objects.

`from yolos_jax import Detector` is all that a user of a trained model needs.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Detections", "Detector"]


def __getattr__(name: str) -> Any:
    # Late, so that data workers can import yolos_jax.data without starting jax.
    if name in __all__:
        from yolos_jax.inference import detector

        return getattr(detector, name)
    if name == "defaults":  # what recipes from before `settings` import
        from yolos_jax import settings

        return settings
    raise AttributeError(f"module 'yolos_jax' has no attribute {name!r}")
