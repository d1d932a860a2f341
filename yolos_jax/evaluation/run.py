"""Runs a model over every image of a source and scores it."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from yolos_jax.data.coco import CocoSource
from yolos_jax.data.loader import Loaded, LoadStep, load
from yolos_jax.data.plan import EvaluationPlan
from yolos_jax.errors import InputError
from yolos_jax.evaluation.coco import coco_metrics, to_results
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import abstract, apply
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


class Evaluator:
    """Detects on every image of a source once and computes COCO's numbers; compiled once, called often.

    Args:
      model: the detector's config.
      source: its labels must be the model's.
      mesh: devices along the axis `data`.
      batch_size: images at a time, a multiple of the devices.
      buckets: most token counts to compile for.
      on_bad_image: "stop" raises `InputError` at a picture that cannot be read.
      workers, ahead: see `data.loader.load`.
    """

    def __init__(
        self,
        model: YolosConfig,
        source: CocoSource,
        geometry: Geometry,
        mesh: Mesh,
        batch_size: int = 8,
        buckets: int = 4,
        on_bad_image: str = "stop",
        workers: int = 0,
        ahead: int = 2,
    ):
        if batch_size % mesh.size:
            raise InputError(f"eval.batch_size {batch_size} is not a multiple of the {mesh.size} devices.")
        self.source, self.batch_size, self.on_bad_image = source, batch_size, on_bad_image
        self._plan = EvaluationPlan(source.examples.sizes, geometry, batch_size, buckets)
        self._work = LoadStep(source, self._plan, geometry.patch, geometry.model_max_side)
        self._workers, self._ahead = workers, ahead
        self._split, self._same = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
        graph = abstract(model)[0]

        @jax.jit
        def detect(params, patches, grid, size):
            out = apply(graph, params, patches, grid)
            return postprocess(out.logits, out.boxes, size)

        self._detect = detect

    def __call__(self, params: dict, cancelled: Callable[[], object] = lambda: False) -> Evaluation | None:
        """Scores `params`; None if `cancelled` became true on the way."""
        try:
            return self._evaluate(params, cancelled)
        except InputError:
            if cancelled():  # what stops a run may end its workers
                return None
            raise

    def _evaluate(self, params: dict, cancelled: Callable[[], object]) -> Evaluation | None:
        params = jax.device_put(params, self._same)
        results, skipped, done = [], [], []
        with (
            tqdm(total=len(self.source.examples), unit="image", desc="evaluating", mininterval=1.0) as bar,
            contextlib.closing(load(self._work, 0, len(self._plan), self._workers, self._ahead)) as batches,
        ):
            for loaded in batches:
                if cancelled():
                    return None
                if loaded.skipped and self.on_bad_image == "stop":
                    raise InputError(f"{loaded.skipped[0]} Mend it, or set --config.data.on_bad_image=skip.")
                images = [self.source.examples[i] for i in loaded.indices if i >= 0]
                results += self._results(params, loaded, images)
                done += [image.image_id for image in images]
                skipped += loaded.skipped
                bar.update(len(images) + len(loaded.skipped))
        wanted = self.source.examples.image_ids.tolist()
        if len(done) + len(skipped) != len(wanted) or len(set(done)) != len(done):
            raise RuntimeError("an image was missed or evaluated twice; this is a bug")
        return Evaluation(coco_metrics(self.source.ground_truth(), results, wanted), results, skipped)

    def _results(self, params: dict, loaded: Loaded, images: list) -> list[dict[str, Any]]:
        """Entries of a results file for one batch."""
        size = np.ones((self.batch_size, 2), np.int32)
        for slot, image in enumerate(images):
            size[slot] = image.width, image.height
        arrays = jax.device_put((loaded.batch.patches, loaded.batch.grid, size), self._split)
        found = jax.device_get(self._detect(params, *arrays))
        category = np.array(self.source.category_ids)
        out = []
        for image, scores, labels, boxes in zip(images, *found):
            out += to_results(image.image_id, scores, category[labels], boxes)
        return out
