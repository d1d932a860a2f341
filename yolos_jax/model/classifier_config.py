"""ClassifierConfig: the architecture of the image classifier used to initialise a detector."""

import dataclasses
from typing import Any

from yolos_jax.errors import InputError
from yolos_jax.model.config import VARIANTS, ArchitectureSettings, NetworkConfig, check_shape
from yolos_jax.setting import redeclared, setting

IMAGENET_CLASSES = 1000


_SHARED = ArchitectureSettings


@dataclasses.dataclass(frozen=True)
class ClassifierSettings:
    """The settings that determine a classifier's parameters and its forward pass."""

    width: int = redeclared(_SHARED, "width", 192)
    depth: int = redeclared(_SHARED, "depth", 12)
    heads: int = redeclared(_SHARED, "heads", 3)
    mlp_ratio: float = redeclared(_SHARED, "mlp_ratio", 4.0)
    patch_size: int = redeclared(_SHARED, "patch_size", 16)
    num_classes: int = setting(
        IMAGENET_CLASSES, "number of classes; 0 derives it from the training data", low=0, high=100_000
    )
    image_size: int = setting(224, "side length of the square images in pixels", low=1, high=8192)
    distilled: bool = setting(
        False, "add a distillation token with its own head, which, like the main head, is trained on the labels "
        "(there is no teacher)",
    )  # fmt: skip
    layer_norm_eps: float = redeclared(_SHARED, "layer_norm_eps", 1e-6)


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(ClassifierSettings, NetworkConfig):
    """A ViT for classification (DeiT, arXiv 2012.12877): one linear layer on top of the CLS token.

    Raises `InputError` if a value has the wrong type or is inconsistent with the others.
    """

    def __post_init__(self) -> None:
        check_shape(self)
        if type(self.image_size) is not int or self.image_size < 1 or self.image_size % self.patch_size:
            sides = f"a positive multiple of model.patch_size {self.patch_size}"
            raise InputError(f"model.image_size is {self.image_size!r}; it must be {sides}.")
        if type(self.distilled) is not bool:
            raise InputError(f"model.distilled is {self.distilled!r}; it must be True or False.")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the grid of position embeddings."""
        return self.image_size // self.patch_size, self.image_size // self.patch_size

    @property
    def special_tokens(self) -> int:
        """Number of tokens before the patches: CLS and, if distilled, the distillation token."""
        return 2 if self.distilled else 1

    def differences(self, other: Any) -> list[str]:
        """Differences that make `other` (any config) a different model, such as "width 192 vs. 384"."""
        if not isinstance(other, ClassifierConfig):
            return ["an image classifier vs. a detector"]
        ours, theirs = self.to_dict(), other.to_dict()
        return [f"{k} {ours[k]} vs. {theirs[k]}" for k in ours if k != "layer_norm_eps" and ours[k] != theirs[k]]


SIZES = {"s_dwr": 240}  # image sizes in the paper's pre-training that differ from DeiT's 224 pixels
CLASSIFIERS = {
    name: ClassifierConfig(found.width, found.depth, found.heads, image_size=SIZES.get(name, 224))
    for name, found in VARIANTS.items()
}
"""The classifiers that the paper's models are initialised from."""


def classifier_variant(name: str) -> ClassifierConfig:
    """The classifier for the named variant; for an unknown name, raises an `InputError` that lists the known ones."""
    if name not in CLASSIFIERS:
        raise InputError(f"there is no variant {name!r}; choose one of {', '.join(CLASSIFIERS)}.")
    return CLASSIFIERS[name]
