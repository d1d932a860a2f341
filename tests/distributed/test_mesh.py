"""Tests of compiler options for several devices."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from yolos_jax.distributed.mesh import compiler_options, data_mesh
from yolos_jax.training import step

OPTION = "xla_gpu_all_reduce_combine_threshold_bytes"


def devices(platform, count):
    each = [SimpleNamespace(platform=platform)] * count
    return SimpleNamespace(devices=np.array(each), size=count)


@pytest.mark.parametrize(
    "platform, count, flags, options",
    [
        ("gpu", 8, "", {OPTION: 8_000_000}),
        ("gpu", 8, f"--{OPTION}=1000 --xla_dump_to=x", None),
        ("gpu", 1, "", None),
        ("tpu", 8, "", None),
    ],
)
def test_all_reduce_threshold_only_on_several_gpus(monkeypatch, platform, count, flags, options):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert compiler_options(devices(platform, count)) == options


def test_no_options_on_cpus():
    assert compiler_options(data_mesh(jax.devices())) is None


def test_step_uses_the_options(monkeypatch):
    """An error for an unknown option shows that XLA receives the options."""

    def gradient(params, batch):
        return params, step.LossReport({"total": jnp.ones(())}, jnp.ones(1, bool), {})

    monkeypatch.setattr(step, "compiler_options", lambda mesh: {"no_such_option": True})
    optimizer = optax.sgd(0.1)
    made = step.make_step(gradient, optimizer, data_mesh(jax.devices()[:1]))
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        made(step.fresh_state({"x": jnp.ones(2)}, optimizer), jnp.ones(1))
