"""Weights of the set loss. No jax here: recipes import it for their defaults."""

import dataclasses

from yolos_jax.setting import setting


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the loss and the matching cost (paper, appendix; DETR)."""

    ce: float = setting(1.0, "weight of cross entropy, in the loss and in the matching cost", low=0, high=1e6)
    bbox: float = setting(5.0, "weight of the boxes' L1 distance, in the loss and the matching cost", low=0, high=1e6)
    giou: float = setting(2.0, "weight of generalised IoU, in the loss and in the matching cost", low=0, high=1e6)
    no_object: float = setting(
        0.1, 'weight of the class "no object" within cross entropy', low=0, high=1e6, also=("eos_coef",)
    )
    class_weight: tuple[float, ...] | str = setting(
        "none", "weights of the other classes within cross entropy: none (1 for each), inverse (mean number of boxes "
        "per class / boxes of the class, clipped to 0.1..10), or one number per class, in the order of labels", low=0,
        high=1e6, choices=("none", "inverse"), lengths=(1, 100_000), also=("class_weights", "cls_weight", "cls_pw"),
    )  # fmt: skip
