"""The settings of evaluation. No jax here."""

import dataclasses

from yolos_jax.accelerators.precision import PRECISIONS
from yolos_jax.setting import YES, setting


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """When and in which batches parameters are scored."""

    batch_size: int = setting(8, "images of a batch of evaluation, over all devices", low=1, high=1024, resume=YES)
    every_epochs: int = setting(
        1, "epochs between evaluations; 0 for none while training", low=0, high=100_000, resume=YES
    )
    least_steps: int = setting(
        0, "least steps between evaluations, where eval.every_epochs have fewer", low=0, high=2**31 - 1, resume=YES,
        also=("eval_steps",),
    )  # fmt: skip
    precision: str = setting(
        "float32", "precision of evaluation, as the setting precision is of training", choices=PRECISIONS, resume=YES
    )
    font: str = setting(
        "", "a font file for class names in drawn images and figures; by default DejaVu Sans", path=True, resume=YES,
        host=True,
    )  # fmt: skip
    compilation_cache: str = setting(
        "auto", "where training and evaluation keep compiled programs for the next time: auto (what jax has been told, "
        "else the user's cache folder), off, or a folder", path=True, resume=YES, host=True,
    )  # fmt: skip
