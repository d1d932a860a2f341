"""Checks outputs before a benchmark: a device against the CPU, and yolos-jax against PyTorch with the same weights."""

from typing import Any

import jax
import numpy as np

from benchmarks.cases import Case, inputs_of, params_of
from benchmarks.ours import Ours
from yolos_jax.errors import InputError

LOGITS, BOXES, RELATIVE = 1e-3, 1e-4, 1e-3  # maximum differences; relative for the loss and the gradient norm


def agree(case: Case, device: jax.Device, with_torch: bool, matcher: str) -> None:
    """Prints the differences; raises `InputError` if they are too large in float32. There are no limits for bfloat16.

    A GPU or TPU is compared with the CPU, which uses the other matcher. If `JAX_PLATFORMS` is set, it must include the
    CPU, as in `cuda,cpu`. A CPU is compared with PyTorch or, without PyTorch, with itself using the other matcher.
    """
    exact = case._replace(dtype="float32")
    here = numbers(exact, device, matcher)
    compared = {}
    if device.platform != "cpu" or not with_torch:
        compared["the CPU"] = numbers(exact, cpu(), "device" if matcher == "host" else "host")
    if with_torch:
        compared["PyTorch"] = numbers_of_torch(exact)
    for name, other in compared.items():
        differences = distances(here, other)
        print(f"{exact}, difference from {name}: {said(differences)}", flush=True)
        refuse(differences, f"{exact}: the outputs of {device.device_kind} and {name}")
    if case.dtype != "float32":
        found = numbers(case, device, matcher)
        print(f"{case}, difference from float32: {said(distances(found, here))}", flush=True)


def cpu() -> jax.Device:
    """The host's CPU as a jax device."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError as error:
        reason = "results are compared with those on the CPU, but jax has no CPU device"
        raise InputError(f"{reason}; set JAX_PLATFORMS=cuda,cpu, or pass --skip-check.") from error


def numbers(case: Case, device: jax.Device, matcher: str) -> dict[str, np.ndarray]:
    """Computes logits, boxes, the loss, and the gradient norm before clipping."""
    ours = Ours(case, params_of(case), inputs_of(case), device, matcher)
    found = jax.device_get(ours.work("forward").run())
    report = jax.device_get(ours.work("step").run())
    return {"logits": found.logits, "boxes": found.boxes, "loss": report.loss.terms["total"], "norm": report.grad_norm}


def numbers_of_torch(case: Case) -> dict[str, np.ndarray]:
    """Computes the same values with transformers on the CPU."""
    from benchmarks.peers import Peer

    peer = Peer(case, params_of(case), inputs_of(case), "cpu", "sdpa")
    logits, boxes = peer.work("forward").run()
    loss, norm = peer.work("step").run()
    return {"logits": logits.numpy(), "boxes": boxes.numpy(), "loss": loss.numpy(), "norm": norm.numpy()}


def distances(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """The largest differences in logits and boxes, and the relative differences in loss and gradient norm."""
    out = {name: float(np.abs(np.asarray(one[name], np.float64) - other[name]).max()) for name in ("logits", "boxes")}
    return out | {name: abs(float(one[name]) / float(other[name]) - 1.0) for name in ("loss", "norm")}


def said(differences: dict[str, float]) -> str:
    """Formats differences on one line."""
    return ", ".join(f"{name} {value:.1e}" for name, value in differences.items())


def refuse(differences: dict[str, float], what: str) -> None:
    """Raises `InputError` for a difference that is too large or NaN."""
    bounds = {"logits": LOGITS, "boxes": BOXES, "loss": RELATIVE, "norm": RELATIVE}
    bad = [name for name, bound in bounds.items() if not differences[name] <= bound]
    if bad:
        found = ", ".join(f"{name} by {differences[name]:.1e}" for name in bad)
        raise InputError(f"{what} differ too much ({found}), so a speed comparison would be meaningless.")
