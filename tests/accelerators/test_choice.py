"""Tests the choice of attention, padding and unrolling for each type of device, with fake devices."""

import dataclasses
from types import SimpleNamespace

import pytest

from yolos_jax.accelerators.batched import attend_batched
from yolos_jax.accelerators.choice import LARGE_BLOCK, decided
from yolos_jax.accelerators.cudnn import attend_cudnn
from yolos_jax.accelerators.flash import attend_flash
from yolos_jax.errors import InputError
from yolos_jax.model.config import Compute, variant
from yolos_jax.model.on_cpu import attend

H100 = SimpleNamespace(platform="gpu", compute_capability="9.0", device_kind="NVIDIA H100")
T4 = SimpleNamespace(platform="gpu", compute_capability="7.5", device_kind="Tesla T4")
AMD = SimpleNamespace(platform="gpu", compute_capability="gfx90a", device_kind="AMD Instinct")
TPU = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
CPU = SimpleNamespace(platform="cpu", device_kind="cpu")
FULL, HALF = Compute(), Compute(compute_dtype="bfloat16")


@pytest.mark.parametrize(
    "device, compute, attention, function, multiple, unroll",
    [
        (H100, HALF, "cudnn", attend_cudnn, 64, "on"),
        (H100, FULL, "flash", attend_flash, 64, "on"),
        (T4, HALF, "batched", attend_batched, 64, "on"),
        (T4, FULL, "batched", attend_batched, 64, "on"),
        (AMD, FULL, "batched", attend_batched, 64, "off"),
        (TPU, HALF, "batched", attend_batched, 128, "off"),
        (CPU, FULL, "blocks", attend, 1, "off"),
        (CPU, HALF, "blocks", attend, 1, "off"),
    ],
)
def test_auto_depends_on_the_device(device, compute, attention, function, multiple, unroll):
    found = decided(compute, variant("s"), device)
    assert (found.attention, found.attend) == (attention, function)
    assert (found.token_multiple, found.unroll) == (multiple, unroll)
    assert found.query_block == (Compute.query_block if device is CPU else LARGE_BLOCK)
    assert found.compute_dtype == compute.compute_dtype
    assert decided(found, variant("s"), device) == found


def test_explicit_choices_are_kept():
    asked = Compute(attention="batched", unroll="off", query_block=5000)
    found = decided(asked, variant("s"), H100)
    assert (found.attention, found.unroll, found.query_block) == ("batched", "off", 5000)
    assert decided(Compute(attention="blocks"), variant("s"), H100).attend is attend
    assert decided(Compute(attention="batched", unroll="on"), variant("s"), CPU).attend is attend_batched


@pytest.mark.parametrize(
    "kind, device, dtype, heads, sentence",
    [
        ("cudnn", CPU, "bfloat16", 6, "needs an NVIDIA GPU, but the device is 'cpu'"),
        ("cudnn", AMD, "bfloat16", 6, "needs an NVIDIA GPU, but the device is 'AMD Instinct'"),
        ("cudnn", T4, "bfloat16", 6, "compute capability 8.0 or higher, but 'Tesla T4' has 7.5"),
        ("cudnn", H100, "float32", 6, "computes in bfloat16, but model.compute_dtype is 'float32'"),
        ("cudnn", H100, "bfloat16", 1, "256 .* 384"),
        ("flash", TPU, "float32", 6, "needs an NVIDIA GPU, but the device is 'TPU v5 lite'"),
        ("flash", T4, "float32", 6, "compute capability 8.0 or higher, but 'Tesla T4' has 7.5"),
        ("flash", H100, "bfloat16", 6, "computes in float32, but model.compute_dtype is 'bfloat16'"),
        ("flash", H100, "float32", 2, "128 .* 192"),
    ],
)
def test_rejects_unavailable_kernels(kind, device, dtype, heads, sentence):
    config = dataclasses.replace(variant("s"), heads=heads)
    with pytest.raises(InputError, match=sentence):
        decided(Compute(compute_dtype=dtype, attention=kind), config, device)
