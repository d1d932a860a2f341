"""Numbers before speeds: ours on a device against ours on the CPU, and against PyTorch's with the same weights."""

from typing import Any

import jax
import numpy as np

from benchmarks.cases import Case, inputs_of, params_of
from benchmarks.ours import Ours
from yolos_jax.errors import InputError

LOGITS, BOXES, RELATIVE = 1e-3, 1e-4, 1e-3  # most difference; relative: of the loss and of the gradients' norm


def agree(case: Case, device: jax.Device, with_torch: bool, matcher: str) -> None:
    """Prints how far numbers are apart, in float32; `InputError` if that is too far. A case in bfloat16 is only shown.

    On another device than the CPU, a CPU beside it computes the same with the other matcher (`JAX_PLATFORMS=cuda,cpu`
    if that is set). A CPU is compared with PyTorch, or with itself without that.
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
        print(f"{exact} against {name}: {said(differences)}", flush=True)
        refuse(differences, f"{exact} on {device.device_kind} against {name}")
    if case.dtype != "float32":
        found = numbers(case, device, matcher)
        print(f"{case} against float32: {said(distances(found, here))}", flush=True)


def cpu() -> jax.Device:
    """The CPU beside the device."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError as error:
        reason = "numbers are compared with the CPU's, which jax does not see"
        raise InputError(f"{reason}; set JAX_PLATFORMS=cuda,cpu, or pass --skip-check.") from error


def numbers(case: Case, device: jax.Device, matcher: str) -> dict[str, np.ndarray]:
    """Logits and boxes, the loss, and the norm of the gradients before clipping."""
    ours = Ours(case, params_of(case), inputs_of(case), device, matcher)
    found = jax.device_get(ours.work("forward").run())
    report = jax.device_get(ours.work("step").run())
    return {"logits": found.logits, "boxes": found.boxes, "loss": report.loss.terms["total"], "norm": report.grad_norm}


def numbers_of_torch(case: Case) -> dict[str, np.ndarray]:
    """The same by transformers on the CPU."""
    from benchmarks.peers import Peer

    peer = Peer(case, params_of(case), inputs_of(case), "cpu", "sdpa")
    logits, boxes = peer.work("forward").run()
    loss, norm = peer.work("step").run()
    return {"logits": logits.numpy(), "boxes": boxes.numpy(), "loss": loss.numpy(), "norm": norm.numpy()}


def distances(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """The largest difference of logits and boxes; of loss and norm relative to the other's."""
    out = {name: float(np.abs(np.asarray(one[name], np.float64) - other[name]).max()) for name in ("logits", "boxes")}
    return out | {name: abs(float(one[name]) / float(other[name]) - 1.0) for name in ("loss", "norm")}


def said(differences: dict[str, float]) -> str:
    """Differences on one line."""
    return ", ".join(f"{name} {value:.1e}" for name, value in differences.items())


def refuse(differences: dict[str, float], what: str) -> None:
    """`InputError` for a difference that is too large, or no number."""
    bounds = {"logits": LOGITS, "boxes": BOXES, "loss": RELATIVE, "norm": RELATIVE}
    bad = [name for name, bound in bounds.items() if not differences[name] <= bound]
    if bad:
        found = ", ".join(f"{name} by {differences[name]:.1e}" for name in bad)
        raise InputError(f"{what} differs too much ({found}), so its speed means nothing.")
