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
