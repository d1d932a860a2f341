"""The weights of the set loss. No jax here: recipes take their defaults from it."""

import dataclasses

from yolos_jax.setting import setting


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Used by the matching cost and the loss alike (paper, appendix; DETR)."""

    ce: float = setting(1.0, "weight of cross entropy, in the loss and in the matching cost", low=0, high=1e6)
    bbox: float = setting(5.0, "weight of the L1 distance of boxes, in both", low=0, high=1e6)
    giou: float = setting(2.0, "weight of generalised IoU, in both", low=0, high=1e6)
    no_object: float = setting(
        0.1, 'weight of the class "no object" within cross entropy', low=0, high=1e6, also=("eos_coef",)
    )
    class_weight: tuple[float, ...] | str = setting(
        "none", "weights of the other classes within cross entropy: none (1 for each), inverse (the mean number of "
        "boxes of a class over its own, within 0.1 to 10), or a number for each class, in the order of labels", low=0,
        high=1e6, choices=("none", "inverse"), lengths=(1, 100_000), also=("class_weights", "cls_weight", "cls_pw"),
    )  # fmt: skip
