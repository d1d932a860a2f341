"""YolosConfig: the architecture of a detector. Compute: how it is computed."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from yolos_jax.errors import InputError
from yolos_jax.setting import YES, setting

COCO_CLASSES = 91  # raw COCO category ids 0..90; the logit after them is "no object"

ATTENTIONS = ("auto", "blocks", "batched", "flash", "cudnn")


class NetworkConfig:
    """Base class of all network configs, which are frozen dataclasses with these fields."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    # Each config declares these fields itself, because their defaults and their order in saved files differ.
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    patch_size: int
    num_classes: int
    layer_norm_eps: float

    @property
    def mlp_width(self) -> int:
        return int(self.width * self.mlp_ratio)

    @property
    def patch_values(self) -> int:
        """Number of values in one RGB patch."""
        return 3 * self.patch_size**2

    def to_dict(self) -> dict[str, Any]:
        """All fields. JSON turns tuples into lists; `from_dict` accepts both."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; raises `InputError` for unknown keys and invalid values."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"unknown model settings {unknown}; the known settings are {sorted(known)}.")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@dataclasses.dataclass(frozen=True)
class ArchitectureSettings:
    """The settings that determine a detector's parameters and its forward pass."""

    width: int = setting(192, "embedding width; must be a multiple of model.heads", low=1, high=8192)
    depth: int = setting(12, "number of transformer blocks", low=2, high=256)
    heads: int = setting(3, "number of attention heads", low=1, high=1024)
    mlp_ratio: float = setting(4.0, "hidden width of each block's MLP, relative to model.width", low=1e-4, high=64)
    patch_size: int = setting(16, "side length of a patch in pixels", low=1, high=256)
    det_tokens: int = setting(
        100, "number of DET tokens (object queries)", low=1, high=10_000, also=("num_queries", "queries")
    )
    # This is K, which is at least 1 in a model. There are K + 1 logits; the last one is "no object".
    num_classes: int = setting(
        COCO_CLASSES, "number of classes; 0 derives it from the training annotations", low=0, high=100_000,
        also=("classes", "nc"),
    )  # fmt: skip
    init_pe_size: tuple[int, int] = setting(
        (800, 1333), "image height and width, in pixels, of the grid of position embeddings added before the first "
        "block", low=1, high=8192, lengths=(2, 2),
    )  # fmt: skip
    mid_pe_size: tuple[int, int] | None = setting(
        None, "like init_pe_size, but for the position embeddings added after every block but the last; None if the "
        "model has none", low=1, high=8192, lengths=(2, 2),
    )  # fmt: skip
    layer_norm_eps: float = setting(
        1e-6, "LayerNorm epsilon: 1e-6 in the reference, 1e-12 in Hugging Face configs", low=0, high=1
    )
    # Reproduces a bug in the reference: it does not resize position embeddings if the image has the same number of
    # patches, even if the shapes differ (a 4:3 image at 576 pixels and the 512x864 grid). Hugging Face always resizes.
    skip_equal_count: bool = setting(
        False, "do not resize position embeddings if their number equals the image's number of patches, even if "
        "the shape differs (reproduces a bug in the reference)",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class YolosConfig(ArchitectureSettings, NetworkConfig):
    """A YOLOS model: a plain ViT with DET tokens (paper, section 2).

    Raises `InputError` if a value has the wrong type or is inconsistent with the others.
    """

    def __post_init__(self) -> None:
        check_shape(self)
        _check_wholes(self, 1, "det_tokens")
        for name in ("init_pe_size", "mid_pe_size"):
            size = getattr(self, name)
            good = isinstance(size, tuple) and len(size) == 2 and all(type(v) is int for v in size)
            if not (good and min(size) >= self.patch_size) and not (name == "mid_pe_size" and size is None):
                raise InputError(
                    f"model.{name} is {size!r}; it must be a height and a width in pixels, "
                    f"each at least model.patch_size ({self.patch_size})."
                )

    @property
    def init_grid(self) -> tuple[int, int]:
        """(rows, columns) of the initial position embeddings."""
        return self.init_pe_size[0] // self.patch_size, self.init_pe_size[1] // self.patch_size

    @property
    def mid_grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the mid-layer position embeddings, if there are any."""
        size = self.mid_pe_size
        return size and (size[0] // self.patch_size, size[1] // self.patch_size)

    def differences(self, other: "YolosConfig") -> list[str]:
        """Differences that make `other` a different model, such as "width 192 vs. 384".

        Position embedding sizes are compared in whole patches. The LayerNorm epsilon is ignored, because the same
        weights are published with the reference's epsilon and with Hugging Face's.
        """
        same = {"layer_norm_eps"}
        same |= {"init_pe_size"} if self.init_grid == other.init_grid else set()
        same |= {"mid_pe_size"} if self.mid_grid == other.mid_grid else set()
        ours, theirs = self.to_dict(), other.to_dict()
        return [f"{k} {ours[k]} vs. {theirs[k]}" for k in ours if k not in same and ours[k] != theirs[k]]


@dataclasses.dataclass(frozen=True)
class ComputeSettings:
    """Settings that control how a network is computed."""

    attention: str = setting(
        "auto", "attention implementation: cudnn (NVIDIA GPUs, bfloat16), flash (a float32 kernel for NVIDIA GPUs), "
        "batched (all heads at once), blocks (one head at a time, for CPUs), or auto (the fastest on the device)",
        choices=ATTENTIONS, resume=YES,
    )  # fmt: skip
    query_block: int = setting(
        384, "block size of attention, in keys or queries; larger blocks are faster but use more memory", low=1,
        high=1_000_000, resume=YES,
    )  # fmt: skip
    compute_dtype: str = setting(  # parameters, LayerNorm statistics and heads are always float32
        "float32", "dtype of the transformer's activations and matrix products", choices=("float32", "bfloat16"),
        also=("dtype",),
    )  # fmt: skip
    unroll: str = setting(
        "auto", "unroll the loop over the blocks: fewer kernel launches, longer compilation; auto does this on NVIDIA "
        "GPUs", choices=("auto", "on", "off"), resume=YES,
    )  # fmt: skip
    remat: bool = setting(
        False, "recompute activations in the backward pass: uses less memory but takes a third longer", resume=YES
    )


@dataclasses.dataclass(frozen=True)
class DetectorComputeSettings(ComputeSettings):
    """Settings that control how a detector is computed."""

    max_side: int = setting(
        84, "longest image side, in patches, that the model is compiled for", low=1, high=1024, resume=YES
    )


@dataclasses.dataclass(frozen=True)
class Compute(DetectorComputeSettings):
    """How a model is computed; does not affect its parameters, nor its results beyond rounding.

    The defaults suit CPUs; `accelerators.choice.decided` adapts them to a device. If a setting has the wrong type or is
    below 1, raises an `InputError` that names the setting's key in a recipe.

    Attributes:
      attend: attention function, see `attention.Attend`; None selects `on_cpu.attend`.
      token_multiple: sequences are padded to a multiple of this number of tokens.
    """

    attend: Callable[..., Any] | None = None
    token_multiple: int = 1

    def __post_init__(self) -> None:
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise InputError(f"model.compute_dtype is {self.compute_dtype!r}; it must be 'float32' or 'bfloat16'.")
        if self.attention not in ATTENTIONS:
            raise InputError(f"model.attention is {self.attention!r}; choose one of {', '.join(ATTENTIONS)}.")
        _check_wholes(self, 1, "query_block", "max_side")


def check_shape(config: NetworkConfig) -> None:
    """Raises `InputError` if a setting shared by all networks has the wrong type or is inconsistent with another."""
    _check_wholes(config, 1, "width", "heads", "patch_size", "num_classes")
    _check_wholes(config, 2, "depth")
    if config.width % config.heads:
        raise InputError(f"model.width {config.width} is not a multiple of model.heads {config.heads}.")
    for name, least in (("mlp_ratio", 1 / config.width), ("layer_norm_eps", 0.0)):
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise InputError(f"model.{name} is {value!r}; it must be a finite number of at least {least:.3g}.")


def _check_wholes(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or value < least:
            raise InputError(f"model.{name} is {value!r}; it must be a whole number of at least {least}.")


VARIANTS: dict[str, YolosConfig] = {
    "ti": YolosConfig(),
    "s": YolosConfig(width=384, heads=6, init_pe_size=(512, 864), mid_pe_size=(512, 864)),
    "s_dwr": YolosConfig(width=330, depth=14, heads=6, init_pe_size=(512, 864), mid_pe_size=(512, 864)),
    "b": YolosConfig(width=768, heads=12, init_pe_size=(800, 1344), mid_pe_size=(800, 1344)),
}
"""The paper's models. S with 200 and with 300 epochs of DeiT pre-training are both "s"; only their weights differ."""


def variant(name: str) -> YolosConfig:
    """The named variant; for an unknown name, raises an `InputError` that lists the known ones."""
    if name not in VARIANTS:
        raise InputError(f"there is no variant {name!r}; choose one of {', '.join(VARIANTS)}.")
    return VARIANTS[name]
