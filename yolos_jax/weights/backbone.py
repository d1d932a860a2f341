"""Finds the ViT in a state dict of DeiT, DINO, MoCo v3, MAE, or transformers' ViT or DeiT."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.weights.limits import plain
from yolos_jax.weights.report import Report, compact
from yolos_jax.weights.tensor_names import stacked, timm_name

# Name of the tensor that identifies a ViT, in timm and in transformers.
_TIMM = "patch_embed.proj.weight"
_TRANSFORMERS = "embeddings.patch_embeddings.projection.weight"
# Prefixes of the two networks in some files: the one that the authors evaluate, and the one to ignore.
_PREFERRED = (("teacher", "student"), ("base_encoder", "momentum_encoder"))
# Tensors outside the backbone that may have the same prefix: classifiers, projections, the decoder of MAE.
_IGNORED = ("dist_token", "mask_token", "head.", "head_dist.", "decoder_")
_CLASSIFIERS = ("classifier.", "cls_classifier.", "distillation_classifier.")
_DISTILLATION = "embeddings.distillation_token"
_IGNORED_OF_TRANSFORMERS = (_DISTILLATION, "embeddings.mask_token", "pooler.", "decoder.", *_CLASSIFIERS)


class Backbone(NamedTuple):
    """The tensors of a ViT with timm names, without its heads."""

    state: dict[str, np.ndarray]
    distilled: bool  # whether there is a distillation token with a position embedding
    report: Report  # lists the source tensors; `initialised` is still empty

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len({name.split(".")[1] for name in self.state if name.startswith("blocks.")})

    @property
    def width(self) -> int:
        """Width of the embeddings. Raises `InputError` if the patch embedding has no bias."""
        bias = self.state.get("patch_embed.proj.bias")
        if bias is None:
            what = self.report.path
            raise InputError(f"the patch embedding of {what} has no bias; YOLOS cannot start from such a ViT.")
        return bias.size


def prefixes(state: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the tensor name prefix of each ViT in a state dict; an empty list if there is no ViT."""
    found = []
    for name in state:
        for mark in (_TIMM, _TRANSFORMERS):
            if name == mark or name.endswith(f".{mark}"):
                found.append(name.removesuffix(mark))
    return found


def find_backbone(state: Mapping[str, np.ndarray], what: str) -> Backbone:
    """Returns the ViT in a state dict (float32 arrays keyed by name) in which `prefixes` finds at least one.

    Raises:
      InputError: there are several ViTs and no rule for choosing one of them, or tensor names conflict.
    """
    prefix = _choose(prefixes(state), what)
    is_timm = prefix + _TIMM in state
    inside = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    has_norm = any(name.startswith(("norm.", "layernorm.")) for name in inside)
    ignored: tuple[str, ...] = _IGNORED if is_timm else _IGNORED_OF_TRANSFORMERS
    if is_timm and not has_norm:  # fine-tuned MAE models normalise after pooling the tokens
        ignored += ("fc_norm.",)
    sources: dict[str, tuple[str, ...]] = {}  # timm's name -> the source's names
    for name in inside:
        if name.startswith(ignored):
            continue
        timm = name if is_timm else timm_name(name)
        if timm in sources:
            first, second = plain(sources[timm][0]), plain(prefix + name)
            raise InputError(f"{what} contains both {first} and {second}, which are names of the same tensor.")
        sources[timm] = (prefix + name,)
    if not is_timm:
        sources = _with_joint_qkv(sources, state, what)

    tensors = {name: stacked([state[theirs] for theirs in names]) for name, names in sources.items()}
    taken = tuple(theirs for names in sources.values() for theirs in names)
    notes = []
    if prefix:
        notes.append(f"the backbone has the prefix {prefix!r}; all other tensors are ignored.")
    if not has_norm:
        notes.append("the weights have no norm after the last block; a new one is initialised with scale 1 and bias 0.")
    used = set(taken)
    left = tuple(name for name in state if name not in used)
    report = Report("deit", taken, ignored=left, notes=tuple(notes), path=what)
    distillation_token = prefix + ("dist_token" if is_timm else _DISTILLATION)
    return Backbone(tensors, distillation_token in state, report)


def _choose(found: list[str], what: str) -> str:
    """Returns the prefix of the network to use."""
    left = sorted(set(found))
    for preferred, other in _PREFERRED:
        if any(preferred in prefix for prefix in left):
            left = [prefix for prefix in left if other not in prefix]
    if len(left) == 1:
        return left[0]
    some = ", ".join(repr(plain(prefix)) for prefix in left[:6])
    raise InputError(f"{what} contains {len(left)} vision transformers (prefixes {some}); save only one of them.")


def _with_joint_qkv(sources: dict[str, tuple[str, ...]], state: Mapping[str, np.ndarray], what: str) -> dict:
    """Merges each block's `attn.q`, `attn.k` and `attn.v` into one entry `attn.qkv` with three source names."""
    out: dict[str, tuple[str, ...]] = {}
    for name, theirs in sources.items():
        found = re.fullmatch(r"(.*\.attn\.)[qkv](\.\w+)", name)
        if found is None:
            out[name] = theirs
            continue
        before, kind = found.groups()
        thirds = [sources.get(f"{before}{letter}{kind}", ()) for letter in "qkv"]
        names = tuple(name for third in thirds for name in third)
        shapes = {state[name].shape for name in names}
        if len(names) < 3 or len(shapes) > 1 or () in shapes:
            there = ", ".join(compact(names))
            raise InputError(f"{what} lacks a query, key or value tensor, or their shapes differ; it contains {there}.")
        out[f"{before}qkv{kind}"] = names
    return out
