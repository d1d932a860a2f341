"""The ViT inside a foreign state dict, whatever surrounds it: DeiT, DINO, MoCo v3, MAE, transformers' ViT and DeiT."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.weights.limits import plain
from yolos_jax.weights.names import join
from yolos_jax.weights.report import Report, compact

_TIMM = "patch_embed.proj.weight"
_TRANSFORMERS = "embeddings.patch_embeddings.projection.weight"
# Of two networks in one file, the one that the method's own evaluations use, and the other.
_PREFERRED = (("teacher", "student"), ("base_encoder", "momentum_encoder"))
# What may stand beside a backbone under the same prefix: classifiers, projections, MAE's decoder.
_IGNORED = ("dist_token", "mask_token", "head.", "head_dist.", "decoder_")
_CLASSIFIERS = ("classifier.", "cls_classifier.", "distillation_classifier.")
_IGNORED_OF_TRANSFORMERS = ("embeddings.mask_token", "pooler.", "decoder.", *_CLASSIFIERS)
# Transformers' names -> timm's; the second form is that of transformers 5 in memory. Applied in this order.
_RENAMES = (
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)


class Backbone(NamedTuple):
    """A ViT's tensors under timm's names, without heads."""

    state: dict[str, np.ndarray]
    distilled: bool  # whether there is a distillation token, and so a position for it
    report: Report  # of the source's tensors; nothing is initialised yet


def prefixes(state: Mapping[str, np.ndarray]) -> list[str]:
    """What stands before the names of each ViT in a state dict; empty if there is none."""
    marked = [(name, mark) for name in state for mark in (_TIMM, _TRANSFORMERS) if f".{name}".endswith(f".{mark}")]
    return [name.removesuffix(mark) for name, mark in marked]


def find_backbone(state: Mapping[str, np.ndarray], what: str) -> Backbone:
    """The ViT of a state dict (float32 arrays by name) that has at least one of the `prefixes`.

    An `InputError` says that there are several and no rule which one counts, or that names contradict each other.
    """
    prefix = _choose(prefixes(state), what)
    of_timm = prefix + _TIMM in state
    inside = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
    has_norm = any(name.startswith(("norm.", "layernorm.")) for name in inside)
    passed = _IGNORED + (() if has_norm else ("fc_norm.",)) if of_timm else _IGNORED_OF_TRANSFORMERS
    backbone: dict[str, tuple[str, ...]] = {}
    for name, theirs in inside.items():
        if name.startswith(passed):
            continue
        for part, timm in () if of_timm else _RENAMES:
            name = re.sub(part, timm, name)
        if name in backbone:
            raise InputError(f"{what} holds both {plain(backbone[name][0])} and {plain(theirs)}, which are the same.")
        backbone[name] = (theirs,)
    distillation_token = prefix + ("dist_token" if of_timm else "embeddings.distillation_token")
    backbone.pop("dist_token", None)
    if not of_timm:
        backbone = _with_joint_qkv(backbone, state, what)
    taken = dict.fromkeys(name for names in backbone.values() for name in names)
    notes = [f"the backbone is that under {prefix!r}; everything else is ignored."] if prefix else []
    if not has_norm:
        notes.append("there is no norm after the last block; it starts with scale 1 and bias 0.")
    ignored = tuple(name for name in state if name not in taken)
    joined = {name: join([state[theirs] for theirs in names]) for name, names in backbone.items()}
    report = Report("deit", tuple(taken), ignored=ignored, notes=tuple(notes), path=what)
    return Backbone(joined, distillation_token in state, report)


def _choose(found: list[str], what: str) -> str:
    left = sorted(set(found))
    for first, second in _PREFERRED:
        if any(first in prefix for prefix in left):
            left = [prefix for prefix in left if second not in prefix]
    if len(left) == 1:
        return left[0]
    some = ", ".join(repr(plain(prefix)) for prefix in left[:6])
    raise InputError(f"{what} holds {len(left)} vision transformers (under {some}); save the one meant alone.")


def _with_joint_qkv(backbone: dict[str, tuple[str, ...]], state: Mapping[str, np.ndarray], what: str) -> dict:
    """Query, key and value of each block, which transformers keeps apart, become one entry in that order."""
    out: dict[str, tuple[str, ...]] = {}
    for name, theirs in backbone.items():
        found = re.fullmatch(r"(.*\.attn\.)([qkv])(\.\w+)", name)
        if found is None:
            out[name] = theirs
            continue
        parts = [f"{found[1]}{letter}{found[3]}" for letter in "qkv"]
        names = tuple(backbone[part][0] for part in parts if part in backbone)
        if len(names) < 3 or len({state[part].shape for part in names}) > 1 or not state[theirs[0]].ndim:
            there = ", ".join(compact(names))
            raise InputError(f"{what} lacks a query, key or value, or their shapes differ; it has {there}.")
        out[f"{found[1]}qkv{found[3]}"] = names
    return out
