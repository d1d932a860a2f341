"""Learning-rate factors per parameter: freezing, backbone learning rate and layer-wise decay.

A factor of 0 freezes a parameter. For fully frozen arrays, the optimizer keeps no state and no gradient is computed. In
an array that stacks several blocks and is not fully frozen, the frozen blocks have a zero gradient and no update.
"""

import difflib
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from yolos_jax.errors import InputError, shown

STACKS = ("blocks", "mid_pos_embed")  # groups whose arrays stack one slice for each block but the last
LAST = "last_block"
BEFORE_BLOCKS = ("patch_embed", "cls_token", "pos_embed")
# Parts that no classifier has, trained at the full rate. Everything else is the backbone.
DETECTOR_ONLY = ("class_head", "box_head", "det_tokens", "pos_embed.det", "mid_pos_embed")
MOST_RATIO = 1e6  # maximum ratio of the backbone's learning rate to the base learning rate
LEAST = 1e-30  # minimum of a factor, so that it does not round to 0 in float32

Rates = dict
"""Nested like the parameters: a float32 scalar for each array, or `[slices]` if the rates of its blocks differ."""


def rates_of(optimizer: Any, params: dict) -> Rates:
    """The rates from a recipe's `optimizer` settings.

    A block's rate is `layer_decay` times the next block's. Norm and heads follow the last block; patch embedding,
    CLS token and positions precede the first (as in BEiT, arXiv 2106.08254). `backbone_lr` scales the backbone's whole
    schedule, including its minimum and warm-up.

    Args:
      params: nested dicts of objects with a `.shape`.

    Raises:
      InputError: a pattern in `freeze` matches nothing, nothing is left to train, or rates are too far apart.
    """
    arrays = flatten_dict(params, sep=".")
    stacked = jax.tree.leaves(params.get("blocks", {}))
    depth = stacked[0].shape[0] + 1 if stacked else 1
    share = _backbone_share(optimizer)
    rates = {}
    for name, array in arrays.items():
        block = _block_of_slices(name, array, depth)
        if _matches(name, DETECTOR_ONLY):
            rates[name] = np.ones(len(block))
        else:
            rates[name] = np.maximum(optimizer.layer_decay ** (depth - block) * share, LEAST)
    for pattern in optimizer.freeze:
        for name, hit in _frozen_slices(pattern, arrays, depth).items():
            rates[name] = np.where(hit, 0.0, rates[name])
    if not any(rate.any() for rate in rates.values()):
        raise InputError(f"optimizer.freeze is {shown(optimizer.freeze)}; that leaves nothing to train.")
    return unflatten_dict({name: _shortened(rate) for name, rate in rates.items()}, sep=".")


def _backbone_share(optimizer: Any) -> float:
    backbone, others = optimizer.backbone_lr, optimizer.learning_rate
    if backbone is None:
        return 1.0
    if backbone > MOST_RATIO * others:
        raise InputError(
            f"optimizer.backbone_lr {backbone:g} is more than {MOST_RATIO:g} times optimizer.learning_rate "
            f"{others:g}; reduce it. To exclude parameters from training, use optimizer.freeze."
        )
    return backbone / others


def _block_of_slices(name: str, array: Any, depth: int) -> np.ndarray:
    """float64 `[slices]`: the block of each slice, -1 before the first block, `depth` after the last."""
    group = name.partition(".")[0]
    if group in STACKS:
        return np.arange(array.shape[0], dtype=np.float64)
    if group == LAST:
        return np.array([depth - 1.0])
    return np.array([-1.0 if group in BEFORE_BLOCKS else float(depth)])


def _shortened(rate: np.ndarray) -> np.ndarray:
    """The rate as float32; a scalar if it is the same for all slices."""
    same = (rate == rate[0]).all()
    return np.asarray(rate[0] if same else rate, np.float32)


def _frozen_slices(pattern: str, arrays: dict[str, Any], depth: int) -> dict[str, np.ndarray]:
    """The slices, bool `[slices]` per array, that a pattern in `freeze` matches; it must match at least one."""
    hits = {}
    known = []
    for name, array in arrays.items():
        slices = _names_of_slices(name, array, depth)
        hits[name] = np.array([any(_matches(n, (pattern,)) for n in names) for names in slices])
        known += [n for names in slices for n in names]
    if not any(hit.any() for hit in hits.values()):
        raise InputError(_unmatched(pattern, known))
    return hits


def _names_of_slices(name: str, array: Any, depth: int) -> list[tuple[str, ...]]:
    """The user-visible names of each slice: blocks are numbered from 0, as in PyTorch, including the last one."""
    group, _, rest = name.partition(".")
    if group in STACKS:
        return [(f"{group}.{i}.{rest}",) for i in range(array.shape[0])]
    if group == LAST:
        return [(name, f"blocks.{depth - 1}.{rest}")]
    return [(name,)]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches the name or a group that contains it, as with files and folders."""
    return any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(name, f"{p}.*") for p in patterns)


def _unmatched(pattern: str, names: Sequence[str]) -> str:
    groups = {name.rsplit(".", cut)[0]: None for name in names for cut in range(name.count(".") + 1)}
    near = difflib.get_close_matches(pattern[:200], groups, n=3, cutoff=0.6)
    top = sorted({name.partition(".")[0] for name in names})
    hint = f"the nearest names are {', '.join(near)}" if near else f"the groups of parameters are {', '.join(top)}"
    return f"optimizer.freeze contains {pattern[:100]!r}, which matches no parameter of this model; {hint}."


def with_rates(optimizer: optax.GradientTransformation, rates: Rates) -> optax.GradientTransformation:
    """Scales the learning rate of each array by its factor, and leaves frozen parameters unchanged.

    optax's updates are proportional to the learning rate, including decoupled decay, so scaling an update has the same
    effect as scaling the learning rate.
    """
    labels = jax.tree.map(lambda rate: "trained" if rate.any() else "frozen", rates)
    if "frozen" in jax.tree.leaves(labels):
        optimizer = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)

    def scaled(update: jax.Array, rate: np.ndarray) -> jax.Array:
        # Adding -0.0 leaves every value unchanged, whereas 0.0 would turn -0.0 into 0.0
        nothing = jnp.full_like(update, -0.0)
        return _where_trained(rate, jnp.multiply(_aligned(rate, update), update), nothing)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = optimizer.update(updates, state, params)
        return jax.tree.map(scaled, updates, rates), state

    return optax.GradientTransformation(optimizer.init, update)  # has no state of its own, unlike a member of a chain


def make_hold(rates: Rates | None = None) -> Callable[[dict], dict]:
    """Returns `hold(params)`: the same values, with the gradients of frozen parameters stopped."""
    if rates is None:
        return lambda params: params

    def one(x: jax.Array, rate: np.ndarray) -> jax.Array:
        return _where_trained(rate, x, jax.lax.stop_gradient(x))

    return lambda params: jax.tree.map(one, params, rates)


def make_average(decay: float, rates: Rates | None = None) -> Callable[[dict, dict, jax.Array], dict]:
    """Returns `average(old, params, t)`: the moving average after `t` updates, an int32 scalar of at least 1.

    Its decay warms up as min(decay, (1 + t) / (10 + t)), so the initial weights, including new heads, are forgotten
    within a few dozen updates. The average of frozen parameters stays bit-identical.
    """

    def average(old: dict, params: dict, t: jax.Array) -> dict:
        share = 1.0 - jnp.minimum(decay, (1.0 + t) / (10.0 + t))
        new = optax.incremental_update(params, old, share)
        if rates is None:
            return new
        return jax.tree.map(_where_trained, rates, new, old)

    return average


def _where_trained(rate: np.ndarray, trained: jax.Array, frozen: jax.Array) -> jax.Array:
    if rate.all():
        return trained
    if not rate.any():
        return frozen
    return jnp.where(_aligned(rate, trained) != 0, trained, frozen)


def _aligned(rate: np.ndarray, array: jax.Array) -> np.ndarray:
    """A rate reshaped to broadcast with an array."""
    return rate.reshape(rate.shape + (1,) * (array.ndim - rate.ndim))
