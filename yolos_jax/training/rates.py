"""How fast each parameter is trained, as a share of the learning rate: frozen ones, backbone, layer-wise decay.

A rate of 0 freezes. Parameters that are frozen as a whole are not handed to the optimizer at all: it keeps no arrays
for them, and no gradient of theirs is computed. Arrays that hold several blocks are trained as a whole and keep the
frozen blocks' numbers: these have a gradient of zero and no update.
"""

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from yolos_jax.errors import InputError, shown

STACKS = ("blocks", "mid_pos_embed")  # groups whose arrays hold a slice for each block but the last
LAST = "last_block"
# What no classifier has: trained at the full rate. Everything else is the backbone.
OWN = ("class_head", "box_head", "det_tokens", "pos_embed.det", "mid_pos_embed")
MOST_RATIO = 1e6  # of the backbone's learning rate to the others'
LEAST = 1e-30  # of a rate, which float32 must not take for 0

Rates = Mapping[str, np.ndarray]
"""Rates other than 1, by the name of the array (`names_of`): a float32 scalar, or `[slices]` where they differ."""


def rates_of(optimizer: Any, params: dict) -> dict[str, np.ndarray]:
    """The rates that the `optimizer` part of a recipe asks for.

    A block's rate is `layer_decay` times that of the next one; after the last come norm and heads, before the first
    the patch embedding, the CLS token and the positions (as in BEiT, arXiv 2106.08254). `backbone_lr` scales the whole
    schedule of the backbone, its minimum and its warm-up too.

    Args:
      params: nested dicts of things with a `.shape`.

    Raises:
      InputError: a pattern of `freeze` that nothing matches, nothing left to train, or rates too far apart.
    """
    shapes = dict(names_of(params))
    depth = next((shape[0] + 1 for name, shape in shapes.items() if name.startswith("blocks.")), 0)
    share, found = _share(optimizer), {}
    for name, shape in shapes.items():
        ids = _blocks_of(name, shape, depth)
        of_backbone = 0.0 if within(name, OWN) else 1.0
        distance = of_backbone * (depth - np.array(ids, np.float64))
        found[name] = optimizer.layer_decay**distance * (share if of_backbone else 1.0)
    found = {name: np.maximum(rate, LEAST) for name, rate in found.items()}
    _freeze(found, shapes, optimizer.freeze, depth)
    if not any(rate.any() for rate in found.values()):
        raise InputError(f"optimizer.freeze is {shown(optimizer.freeze)}; that leaves nothing to train.")
    rates = {name: np.float32(rate[0] if (rate == rate[0]).all() else rate) for name, rate in found.items()}
    return {name: np.asarray(rate) for name, rate in rates.items() if (rate != 1).any()}


def _share(optimizer: Any) -> float:
    backbone, others = optimizer.backbone_lr, optimizer.learning_rate
    if backbone is None:
        return 1.0
    if backbone > MOST_RATIO * others:
        raise InputError(
            f"optimizer.backbone_lr {backbone:g} is more than {MOST_RATIO:g} times optimizer.learning_rate "
            f"{others:g}; it must stay below. optimizer.freeze stops parameters altogether."
        )
    return backbone / others


def _blocks_of(name: str, shape: tuple[int, ...], depth: int) -> list[int]:
    """After how many blocks the slices of an array come in: -1 before the first one, `depth` after the last."""
    group = name.partition(".")[0]
    if group in STACKS:
        return list(range(shape[0]))
    return [depth - 1 if group == LAST else -1 if group in ("patch_embed", "cls_token", "pos_embed") else depth]


def _freeze(found: dict[str, np.ndarray], shapes: Mapping[str, tuple], patterns: Sequence[str], depth: int) -> None:
    """Sets rates to 0, in place; every pattern must match something."""
    names = {name: list(user_names(name, shape, depth)) for name, shape in shapes.items()}
    for pattern in patterns:
        hits = {name: [any(within(n, (pattern,)) for n in slice_) for slice_ in known] for name, known in names.items()}
        if not any(map(any, hits.values())):
            raise InputError(_unmatched(pattern, [n for known in names.values() for slice_ in known for n in slice_]))
        for name, hit in hits.items():
            found[name] = np.where(hit, 0.0, found[name])


def within(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns matches a name or a group that it belongs to, as with files and folders."""
    return any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(name, f"{p}.*") for p in patterns)


def user_names(name: str, shape: tuple[int, ...], depth: int) -> Iterator[tuple[str, ...]]:
    """What each slice of an array may be called: blocks have numbers from 0, as in PyTorch, the last one a name too."""
    group, _, rest = name.partition(".")
    if group in STACKS:
        yield from ((f"{group}.{i}.{rest}",) for i in range(shape[0]))
    else:
        yield (name, f"blocks.{depth - 1}.{rest}") if group == LAST else (name,)


def _unmatched(pattern: str, names: Sequence[str]) -> str:
    groups = {name.rsplit(".", cut)[0]: None for name in names for cut in range(name.count(".") + 1)}
    near = difflib.get_close_matches(pattern[:200], groups, n=3, cutoff=0.6)
    top = sorted({name.partition(".")[0] for name in names})
    hint = f"the nearest names are {', '.join(near)}" if near else f"the groups of parameters are {', '.join(top)}"
    return f"optimizer.freeze holds {pattern[:100]!r}, which no parameter of this model matches; {hint}."


def names_of(params: dict, before: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names, with dots, and shapes of all arrays."""
    for key, value in params.items():
        if isinstance(value, dict):
            yield from names_of(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", tuple(value.shape)


def trained(params: dict, rates: Rates, before: str = "") -> dict:
    """The part of nested dicts of arrays that is trained; without its frozen arrays, and groups that hold nothing."""
    out = {}
    for key, value in params.items():
        if isinstance(value, dict):
            if inner := trained(value, rates, f"{before}{key}."):
                out[key] = inner
        elif np.any(rates.get(f"{before}{key}", 1)):
            out[key] = value
    return out


def overlay(params: dict, part: dict) -> dict:
    """Nested dicts with the values of `part` where it has some."""
    return {
        key: part.get(key, value) if not isinstance(value, dict) else overlay(value, part.get(key, {}))
        for key, value in params.items()
    }


def part_like(params: dict, part: dict) -> dict:
    """Those of `params` that `part` has, too."""
    return {key: part_like(params[key], v) if isinstance(v, dict) else params[key] for key, v in part.items()}


def hold(part: dict, rates: Rates) -> dict:
    """The same numbers; those of frozen slices have no gradient."""
    return _at_mixed(part, rates, lambda x, rate: jnp.where(rate != 0, x, jax.lax.stop_gradient(x)))


def with_frozen_of(old: dict, new: dict, rates: Rates) -> dict:
    """`new`, with the numbers that `old` has of what is frozen."""

    def one(path: tuple[Any, ...], kept: jax.Array, other: jax.Array) -> jax.Array:
        rate = rates.get(".".join(step.key for step in path))
        if rate is None or np.all(rate):
            return other
        return jnp.where(_aligned(rate, other.ndim) != 0, other, kept) if np.any(rate) else kept

    return jax.tree_util.tree_map_with_path(one, old, new)


def with_rates(optimizer: optax.GradientTransformation, rates: Rates) -> optax.GradientTransformation:
    """An optimizer for all parameters that sees only what is trained; its updates are of that part, times the rates.

    An update of optax is proportional to the learning rate, decoupled decay included: so this is the update of another
    rate.
    """
    if not rates:
        return optimizer

    def init(params: optax.Params) -> optax.OptState:
        return optimizer.init(trained(params, rates))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = optimizer.update(updates, state, None if params is None else trained(params, rates))
        # -0.0 is what changes no number at all: 0.0 would turn -0.0 into 0.0
        return _at(updates, rates, lambda u, rate: jnp.where(rate != 0, rate * u, -0.0)), state

    return optax.GradientTransformation(init, update)


def _at(part: dict, rates: Rates, change: Callable[[Any, Any], Any], before: str = "") -> dict:
    """`change(array, its rates)` for all that have rates, which are shaped to be multiplied."""
    out = {}
    for key, value in part.items():
        rate = rates.get(f"{before}{key}")
        if isinstance(value, dict):
            out[key] = _at(value, rates, change, f"{before}{key}.")
        else:
            out[key] = value if rate is None else change(value, _aligned(rate, value.ndim))
    return out


def _at_mixed(part: dict, rates: Rates, change: Callable[[Any, Any], Any]) -> dict:
    """The same for arrays that are frozen in parts."""
    return _at(part, {name: rate for name, rate in rates.items() if not np.all(rate)}, change)


def _aligned(rate: np.ndarray, ndim: int) -> np.ndarray:
    return rate.reshape(rate.shape + (1,) * (ndim - rate.ndim))


def note_of(params: dict, rates: Rates, patterns: Sequence[str]) -> tuple[str, ...]:
    """A sentence on what is not trained, if there is something."""
    total = frozen = 0
    for name, shape in names_of(params):
        size, rate = math.prod(shape), np.asarray(rates.get(name, 1.0))
        total += size
        frozen += round(size * float((rate == 0).mean()))
    if not frozen:
        return ()
    return (f"{frozen:,} of {total:,} parameters are not trained: {', '.join(patterns)}",)
