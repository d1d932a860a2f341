"""The weights of the set loss. No jax here: settings take their defaults from it."""

from typing import NamedTuple


class LossWeights(NamedTuple):
    """Used by the matching cost and the loss alike (paper, appendix; DETR)."""

    ce: float = 1.0  # of the cross entropy, and of the target class's probability in the cost
    bbox: float = 5.0  # of the L1 distance of boxes as cxcywh in 0..1
    giou: float = 2.0  # of the generalised IoU
    no_object: float = 0.1  # of a query without a target within the cross entropy; others weigh 1
