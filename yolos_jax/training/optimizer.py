"""The reference's optimizer: parameter groups, gradient clipping and learning rates per epoch."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from yolos_jax.errors import InputError
from yolos_jax.training.rates import Rates, with_rates

WARMUP_LR = 1e-6  # initial learning rate of a warm-up


def learning_rates(
    epochs: int, base: float, min_lr: float, warmup_epochs: float = 0, warmup_lr: float = WARMUP_LR
) -> np.ndarray:
    """The learning rate of each epoch, float64 `[epochs]`.

    The reference steps its schedule to epoch e only at the end of epoch e, so epochs 0 and 1 have the same rate. The
    cosine is computed from epoch 0, not from the end of the warm-up, so the rate jumps there.
    """

    def schedule(t: int) -> float:
        if t < warmup_epochs:
            return warmup_lr + t * (base - warmup_lr) / warmup_epochs
        return min_lr + 0.5 * (base - min_lr) * (1.0 + math.cos(math.pi * t / epochs))

    return np.array([schedule(max(epoch - 1, 0)) for epoch in range(epochs)])


def by_epoch(rates: np.ndarray, steps_per_epoch: int) -> optax.Schedule:
    """A schedule that is constant within each epoch; the last rate is held after the last epoch."""
    table = jnp.asarray(rates, jnp.float32)
    return lambda step: table[jnp.minimum(step // steps_per_epoch, len(rates) - 1)]


def schedule_of(optimizer: Any, epochs: int, per_epoch: int) -> optax.Schedule:
    """The learning rate of every step, from a recipe's `optimizer` settings.

    "epoch" is the reference's schedule, see `learning_rates`; "step" is a linear warm-up followed by a cosine, both
    updated every step.
    """
    base = optimizer.learning_rate
    least = optimizer.min_lr
    warmup = optimizer.warmup_epochs
    warmup_steps = max(int(warmup * per_epoch), optimizer.warmup_steps)
    if base < least:
        scaled = ", scaled to the batch size," if getattr(optimizer, "rate_batch", 0) else ""
        found = f"optimizer.learning_rate{scaled} is {base:.3g}, below optimizer.min_lr {least:.3g}"
        raise InputError(f"{found}, the learning rate at the end of the schedule; lower optimizer.min_lr.")
    if optimizer.schedule == "epoch" and optimizer.warmup_steps:
        raise InputError("optimizer.warmup_steps needs optimizer.schedule=step; use optimizer.warmup_epochs instead.")
    if optimizer.schedule == "epoch":
        return by_epoch(learning_rates(epochs, base, least, warmup), per_epoch)
    total = epochs * per_epoch
    if warmup_steps >= total:
        raise InputError(
            f"a warm-up of {warmup_steps} steps (optimizer.warmup_epochs {warmup:g}, optimizer.warmup_steps "
            f"{optimizer.warmup_steps}) does not fit in a run of {total} steps; shorten it."
        )
    return optax.warmup_cosine_decay_schedule(WARMUP_LR, base, warmup_steps, total, least)


def decay_mask(params: dict) -> dict:
    """A tree of bools with the structure of `params`, True where weight decay applies.

    As in the reference, decay applies to matrices, all parameters of the heads, and the mid-layer position
    embeddings, but not to other biases, norms, tokens or the initial position embeddings.
    """

    def is_decayed(path: tuple, _: Any) -> bool:
        names = [key.key for key in path]
        return names[0] in ("class_head", "box_head", "mid_pos_embed") or names[-1] == "kernel"

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def clip_like_torch(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)), as `clip_grad_norm_` does.

    optax's own clipping has no epsilon; using it would change Adam's first steps.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(
    name: str, schedule: optax.Schedule, weight_decay: float, clip_norm: float, rates: Rates | None = None
) -> optax.GradientTransformation:
    """optax's optimizer `name` with `weight_decay` (see `decay_mask`), after clipping to `clip_norm` (0: no clipping).

    "adamw" matches the reference (betas 0.9 and 0.999, epsilon 1e-8); the setting `optimizer.name` lists the others.
    For `rates`, see `rates.with_rates`; the norm used for clipping excludes frozen parameters.
    """
    clip = clip_like_torch(clip_norm) if clip_norm else optax.identity()
    chosen = getattr(optax, name)(schedule, weight_decay=weight_decay, mask=decay_mask)
    optimizer = optax.chain(clip, chosen)
    return optimizer if rates is None else with_rates(optimizer, rates)
