"""Runs a model over every image of a source and scores it."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from yolos_jax.data.coco import CocoSource
from yolos_jax.data.loader import batches, evaluation_groups
from yolos_jax.errors import InputError
from yolos_jax.evaluation.coco import coco_metrics, to_results
from yolos_jax.model.yolos import apply
from yolos_jax.postprocess import postprocess
from yolos_jax.sequence import Geometry


class Evaluation(NamedTuple):
    """Result of an evaluation.

    Attributes:
      metrics: the 12 numbers by name.
      results: entries of a COCO results file, all queries of all images.
      skipped: a sentence for each picture that could not be read; such images
        are scored as if nothing had been found in them.
    """

    metrics: dict[str, float]
    results: list[dict[str, Any]]
    skipped: list[str]


def evaluate(
    graph: Any,
    params: dict,
    source: CocoSource,
    geometry: Geometry,
    mesh: Mesh,
    batch_size: int = 8,
    buckets: int = 4,
    on_bad_image: str = "stop",
) -> Evaluation:
    """Detects on every image of `source` once and computes COCO's numbers.

    Args:
      graph, params: the model, see `model.yolos.build`.
      batch_size: images at a time, a multiple of the devices of `mesh`.
      buckets: most token counts to compile for.
    """
    if batch_size % mesh.size:
        raise InputError(f"eval.batch_size {batch_size} is not a multiple of the {mesh.size} devices.")
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))

    @jax.jit
    def detect(params, patches, grid, size):
        out = apply(graph, params, patches, grid)
        return postprocess(out.logits, out.boxes, size)

    groups = evaluation_groups([geometry.tokens(e.width, e.height) for e in source.examples], batch_size, buckets)
    results, skipped, done = [], [], []
    with tqdm(total=len(source.examples), unit="image", desc="evaluating", mininterval=1.0) as bar:
        for loaded in batches(source, groups, geometry, batch_size, _most_boxes(source), on_bad_image):
            size = np.ones((batch_size, 2), np.int32)
            for slot, example in enumerate(loaded.examples):
                size[slot] = example.width, example.height
            arrays = jax.device_put((loaded.batch.patches, loaded.batch.grid, size), split)
            found = jax.device_get(detect(params, *arrays))
            for example, scores, labels, boxes in zip(loaded.examples, *found):
                results += to_results(example.image_id, scores, labels, boxes)
            done += [e.image_id for e in loaded.examples]
            skipped += loaded.skipped
            bar.update(len(loaded.examples) + len(loaded.skipped))
    wanted = [e.image_id for e in source.examples]
    if len(done) + len(skipped) != len(wanted) or len(set(done)) != len(done):
        raise RuntimeError("an image was missed or evaluated twice; this is a bug")
    return Evaluation(coco_metrics(source.annotation_file, results, wanted), results, skipped)


def _most_boxes(source: CocoSource) -> int:
    return max(1, max(len(e.labels) for e in source.examples))
