"""Compiles what training, evaluation and prediction run once for many runs that are of one recipe."""

import contextlib
from collections.abc import Iterator

import jax
import pytest

from yolos_jax.tasks import detection

PROGRAMS = {"make_step.<locals>.step", "EveryImage.program.<locals>.indexed", "detect"}


@contextlib.contextmanager
def compiled_once() -> Iterator[dict]:
    """Inside, the first run's programs and starting values serve all runs, whose recipe and model must be the same.

    Yields the programs by their names as they come.
    """
    jit, kept = jax.jit, {}
    start, started = detection.starting_params, []

    def shared(*function, **options):
        name = getattr(getattr(function[0], "func", function[0]), "__qualname__", "") if function else ""
        if name not in PROGRAMS:
            return jit(*function, **options)
        if name not in kept:
            kept[name] = jit(*function, **options)
        return kept[name]

    def once(*args):
        started.extend(() if started else [jax.device_get(start(*args))])
        return started[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", shared)
        patch.setattr(detection, "starting_params", once)
        yield kept
