"""ClassifierConfig: what decides the parameters of an image classifier, the network that a detector starts from."""

import dataclasses
from typing import Any

from yolos_jax.errors import InputError
from yolos_jax.model.config import VARIANTS, NetworkConfig, check_shape

IMAGENET_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(NetworkConfig):
    """A ViT that classifies (DeiT, arXiv 2012.12877): a CLS token, and one linear layer on it.

    An `InputError` says which value has the wrong type or does not fit the others.
    """

    width: int = 192  # of the embeddings, a multiple of `heads`
    depth: int = 12  # number of transformer blocks, at least 2
    heads: int = 3
    mlp_ratio: float = 4.0  # hidden width of a block's MLP over `width`
    patch_size: int = 16  # side of a patch in pixels
    num_classes: int = IMAGENET_CLASSES
    image_size: int = 224  # pixels of a side of the square images that the position embeddings are a grid for
    distilled: bool = False  # whether there is a distillation token, with a head of its own
    layer_norm_eps: float = 1e-6  # 1e-12 in Hugging Face configs

    def __post_init__(self) -> None:
        check_shape(self)
        if type(self.image_size) is not int or self.image_size < 1 or self.image_size % self.patch_size:
            sides = f"whole patches of model.patch_size {self.patch_size} pixels"
            raise InputError(f"model.image_size is {self.image_size!r}; it must be {sides}.")
        if type(self.distilled) is not bool:
            raise InputError(f"model.distilled is {self.distilled!r}; it must be True or False.")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the position embeddings."""
        return self.image_size // self.patch_size, self.image_size // self.patch_size

    @property
    def special_tokens(self) -> int:
        """Tokens before the patches: CLS and, if distilled, the distillation token."""
        return 2 if self.distilled else 1

    def differences(self, other: Any) -> list[str]:
        """Sentences such as "width 192 against 384" for settings that make `other`, any config, another model."""
        if not isinstance(other, ClassifierConfig):
            return ["an image classifier against a detector"]
        ours, theirs = self.to_dict(), other.to_dict()
        return [f"{k} {ours[k]} against {theirs[k]}" for k in ours if k != "layer_norm_eps" and ours[k] != theirs[k]]


SIZES = {"s_dwr": 240}  # pixels of a side that the paper pre-trains at, where that is not DeiT's 224
CLASSIFIERS = {
    name: ClassifierConfig(found.width, found.depth, found.heads, image_size=SIZES.get(name, 224))
    for name, found in VARIANTS.items()
}
"""The classifiers that the paper's models start from."""


def classifier_variant(name: str) -> ClassifierConfig:
    """The classifier of the named variant; `InputError` lists the names if there is none."""
    if name not in CLASSIFIERS:
        raise InputError(f"there is no variant {name!r}; choose one of {', '.join(CLASSIFIERS)}.")
    return CLASSIFIERS[name]
