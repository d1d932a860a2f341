"""Weights of the set loss. Does not import jax, because recipes import this module for their defaults."""

import dataclasses

from yolos_jax.setting import setting


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the loss and the matching cost (paper, appendix; DETR)."""

    ce: float = setting(1.0, "weight of the classification term in the loss and in the matching cost", low=0, high=1e6)
    bbox: float = setting(5.0, "weight of the L1 box distance in the loss and in the matching cost", low=0, high=1e6)
    giou: float = setting(2.0, "weight of the generalised IoU in the loss and in the matching cost", low=0, high=1e6)
    no_object: float = setting(
        0.1, 'weight of the class "no object" in the cross entropy', low=0, high=1e6, also=("eos_coef",)
    )
    class_weight: tuple[float, ...] | str = setting(
        "none", "weights of the other classes in the cross entropy: none (1 for each), inverse (mean number of boxes "
        "per class / number of boxes of the class, clipped to 0.1..10), or one number per class, in label order", low=0,
        high=1e6, choices=("none", "inverse"), lengths=(1, 100_000), also=("class_weights", "cls_weight", "cls_pw"),
    )  # fmt: skip
