"""Measures how a lower precision changes the metrics, scores and boxes of a trained detector, relative to float32.

python -m benchmarks.precisions --checkpoint demo/run

The checkpoint must have a recorded recipe, whose validation split is used. Scores and boxes are compared query by
query, for queries with a score of at least --threshold in float32. CPUs do not support TF32, so it is emulated: the 13
lowest bits of the fraction are removed from the operands of every matrix product in the network, by rounding or
truncation. Sums stay in float32.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measuring import machine
from yolos_jax.config.reader import read_recipe
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.errors import clear_errors
from yolos_jax.evaluation.evaluator import Evaluation
from yolos_jax.model import on_cpu, vit
from yolos_jax.tasks.detection import evaluator_for
from yolos_jax.tools.analysis.tables import markdown
from yolos_jax.weights.checkpoints import load_detector

LOST = 13  # number of fraction bits that float32 has and TF32 lacks
Round = Callable[[jax.Array], jax.Array]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder of a run")
    parser.add_argument("--threshold", type=float, default=0.5, help="compare queries with at least this float32 score")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    machine(device)
    emulated = {"tensorfloat32, rounded": rounded, "tensorfloat32, truncated": truncated}
    wanted: dict[str, tuple[str, Round | None]] = {"float32": ("float32", None), "bfloat16": ("bfloat16", None)}
    if device.platform == "cpu":
        wanted |= {name: ("float32", kind) for name, kind in emulated.items()}
    else:
        wanted |= {"tensorfloat32": ("tensorfloat32", None)}
    exact = evaluate(arguments.checkpoint, *wanted["float32"])
    rows = [{"precision": "float32"} | metrics(exact)]
    for name, how in list(wanted.items())[1:]:
        found = evaluate(arguments.checkpoint, *how)
        rows.append({"precision": name} | metrics(found) | changes(exact, found, arguments.threshold))
    print(markdown(rows))


def evaluate(checkpoint: str, precision: str, kind: Round | None) -> Evaluation:
    """Evaluates like yolos-eval; if `kind` is given, it rounds the operands of matrix products."""
    _, meta = load_detector(checkpoint)
    config = read_recipe(meta.extra["config"], DetectionConfig)
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, precision=precision))
    with products_of(kind) if kind else contextlib.nullcontext():
        params, _, evaluator = evaluator_for(config, checkpoint)
        return evaluator(params)


def rounded(x: jax.Array) -> jax.Array:
    """Rounds to the nearest TF32 value, with ties away from zero, like the instruction `cvt.rna.tf32`."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return _without_lowest(bits + (1 << (LOST - 1)))


def truncated(x: jax.Array) -> jax.Array:
    """Rounds to TF32 towards zero."""
    return _without_lowest(jax.lax.bitcast_convert_type(x, jnp.int32))


def _without_lowest(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits & -(1 << LOST), jnp.float32)


@contextlib.contextmanager
def products_of(kind: Round) -> Iterator[None]:
    """Rounds the operands of all matrix products in linear layers and attention with `kind`."""

    def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return kind(x) @ kind(kernel)

    def attention(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(spec, kind(a), kind(b))

    with mock.patch.object(vit, "product", linear), mock.patch.object(on_cpu, "_product", attention):
        yield


def metrics(found: Evaluation) -> dict[str, str]:
    return {name: f"{found.metrics[name]:.4f}" for name in ("AP", "AP50", "AP75")}


def changes(exact: Evaluation, other: Evaluation, threshold: float) -> dict[str, str]:
    """Changes in scores, boxes (the largest of the four xywh values, in pixels) and labels, as table cells."""
    pairs = [(a, b) for a, b in zip(exact.results, other.results) if a["score"] >= threshold]
    scores = np.array([abs(a["score"] - b["score"]) for a, b in pairs])
    boxes = np.array([np.abs(np.subtract(a["bbox"], b["bbox"])).max() for a, b in pairs])
    labels = sum(a["category_id"] != b["category_id"] for a, b in pairs)
    return {
        "queries": f"{len(pairs):,}", "score, median": f"{np.median(scores):.1e}",
        "score, 99 %": f"{np.quantile(scores, 0.99):.1e}", "pixels, median": f"{np.median(boxes):.1e}",
        "pixels, 99 %": f"{np.quantile(boxes, 0.99):.1e}", "changed labels": str(labels),
    }  # fmt: skip


if __name__ == "__main__":
    with clear_errors():
        main()
