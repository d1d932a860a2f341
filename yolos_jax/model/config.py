"""YolosConfig: what decides the parameters and the function computed with them. Compute: how it is computed."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from yolos_jax.errors import InputError

COCO_CLASSES = 91  # raw COCO category ids 0..90; the logit after them is "no object"

# Names of Compute's settings in a recipe's `model`, beside YolosConfig's.
COMPUTE_SETTINGS = {
    "compute_dtype": "dtype", "remat": "remat", "attention": "attention", "query_block": "query_block",
    "max_side": "max_side",
}  # fmt: skip
ATTENTIONS = ("auto", "blocks", "cudnn")


class NetworkConfig:
    """What the configs of all our networks have in common; each is a frozen dataclass that has these fields."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    # Each config states them itself, with its defaults, in an order of its own that its files keep.
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
        """Numbers in one RGB patch."""
        return 3 * self.patch_size**2

    def to_dict(self) -> dict[str, Any]:
        """All fields; JSON turns its tuples into lists, which `from_dict` takes as well."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The reverse; `InputError` for unknown keys and unusable values.

        Settings of `Compute` may stand among the values and are left out: a recipe's `model` holds both, as did
        checkpoints before version 0.2.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known - COMPUTE_SETTINGS.keys())
        if unknown:
            raise InputError(f"unknown model settings {unknown}; the known ones are {sorted(known)}.")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})


@dataclasses.dataclass(frozen=True)
class YolosConfig(NetworkConfig):
    """A YOLOS model: a plain ViT with DET tokens (paper, section 2).

    An `InputError` says which value has the wrong type or does not fit the others.
    """

    width: int = 192  # of the embeddings, a multiple of `heads`
    depth: int = 12  # number of transformer blocks, at least 2
    heads: int = 3
    mlp_ratio: float = 4.0  # hidden width of a block's MLP over `width`
    patch_size: int = 16  # side of a patch in pixels
    det_tokens: int = 100  # number of DET tokens (object queries)
    num_classes: int = COCO_CLASSES  # K; there are K + 1 logits and the last one is "no object"
    init_pe_size: tuple[int, int] = (800, 1333)  # (height, width) in pixels of the grid of initial position embeddings
    mid_pe_size: tuple[int, int] | None = None  # the same for those added after every block but the last, if any
    layer_norm_eps: float = 1e-6  # 1e-12 in Hugging Face configs
    # A slip of the reference to reproduce: it does not resize position embeddings whose number is that of the image's
    # patches, even if the shape differs (a 4:3 image at 576 pixels and the 512x864 grid). Hugging Face always resizes.
    skip_equal_count: bool = False

    def __post_init__(self) -> None:
        check_shape(self)
        _check_wholes(self, 1, "det_tokens")
        for name in ("init_pe_size", "mid_pe_size"):
            size = getattr(self, name)
            good = isinstance(size, tuple) and len(size) == 2 and all(type(v) is int for v in size)
            if not (good and min(size) >= self.patch_size) and not (name == "mid_pe_size" and size is None):
                raise InputError(
                    f"model.{name} is {size!r}; it needs a height and a width in pixels, "
                    f"each at least one patch ({self.patch_size})."
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
        """Sentences such as "width 192 against 384" for settings that make it another model.

        Position sizes count as whole patches. The LayerNorm epsilon is left out: the same weights exist with the
        reference's and Hugging Face's.
        """
        same = {"layer_norm_eps"}
        same |= {"init_pe_size"} if self.init_grid == other.init_grid else set()
        same |= {"mid_pe_size"} if self.mid_grid == other.mid_grid else set()
        ours, theirs = self.to_dict(), other.to_dict()
        return [f"{k} {ours[k]} against {theirs[k]}" for k in ours if k not in same and ours[k] != theirs[k]]


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is computed; changes neither its parameters nor, beyond rounding, its results.

    An `InputError` says which value has the wrong type or is below 1, and names it as a recipe does.
    """

    dtype: str = "float32"  # or "bfloat16", of activations and products; parameters, statistics and heads are float32
    remat: bool = False  # recompute each block's activations for its gradient (memory against a third more time)
    # "blocks", or "cudnn"; "auto" is blocks unless `attention_cudnn.decided` settles it for a device
    attention: str = "auto"
    query_block: int = 256  # attention meets so many keys, or queries, at once (memory against speed)
    max_side: int = 84  # longest side of an image in patches that position resizing is compiled for

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"model.compute_dtype is {self.dtype!r}; it must be 'float32' or 'bfloat16'.")
        if self.attention not in ATTENTIONS:
            raise InputError(f"model.attention is {self.attention!r}; choose one of {', '.join(ATTENTIONS)}.")
        _check_wholes(self, 1, "query_block", "max_side")


def check_shape(config: NetworkConfig) -> None:
    """`InputError` if what all networks have in common is of a wrong type or does not fit together."""
    _check_wholes(config, 1, "width", "heads", "patch_size", "num_classes")
    _check_wholes(config, 2, "depth")
    if config.width % config.heads:
        raise InputError(f"model.width {config.width} is not a multiple of model.heads {config.heads}.")
    for name, least in (("mlp_ratio", 1 / config.width), ("layer_norm_eps", 0.0)):
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise InputError(f"model.{name} is {value!r}; it must be a finite number of at least {least:.3g}.")


def _check_wholes(config: Any, least: int, *names: str) -> None:
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
"""The paper's models. S from 200 and from 300 DeiT epochs are both "s": they differ only in the weights."""


def variant(name: str) -> YolosConfig:
    """The named variant; `InputError` lists the names if there is none."""
    if name not in VARIANTS:
        raise InputError(f"there is no variant {name!r}; choose one of {', '.join(VARIANTS)}.")
    return VARIANTS[name]
