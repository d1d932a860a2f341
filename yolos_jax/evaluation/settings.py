"""Settings of evaluation. This module must not import jax."""

import dataclasses

from yolos_jax.accelerators.precision import PRECISIONS
from yolos_jax.setting import YES, setting

PYCOCOTOOLS, FASTER = "pycocotools", "faster"


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """How often and how parameters are evaluated."""

    batch_size: int = setting(8, "images per batch in evaluation, over all devices", low=1, high=1024, resume=YES)
    every_epochs: int = setting(
        1, "epochs between evaluations; 0 for no evaluation during training", low=0, high=100_000, resume=YES
    )
    least_steps: int = setting(
        0, "minimum steps between evaluations, even if eval.every_epochs is shorter", low=0, high=2**31 - 1, resume=YES,
        also=("eval_steps",),
    )  # fmt: skip
    precision: str = setting(
        "float32", "precision of evaluation; see the setting precision", choices=PRECISIONS, resume=YES
    )
    backend: str = setting(
        PYCOCOTOOLS, "package that computes the COCO metrics: pycocotools, or faster (faster-coco-eval, the extra "
        "faster-eval); the results are the same", choices=(PYCOCOTOOLS, FASTER), resume=YES,
    )  # fmt: skip
    font: str = setting(
        "", "font file for class names in images and figures; DejaVu Sans by default", path=True, resume=YES,
        host=True,
    )  # fmt: skip
    compilation_cache: str = setting(
        "auto", "persistent cache of compiled programs for training and evaluation: auto (jax's configuration if set, "
        "otherwise the user's cache folder), off, or a folder", path=True, resume=YES, host=True,
    )  # fmt: skip
