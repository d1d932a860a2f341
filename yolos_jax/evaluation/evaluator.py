"""Runs a model over every image of a source and scores it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from yolos_jax.evaluation.class_scores import ClassScores
from yolos_jax.evaluation.coco_metrics import scored, to_results
from yolos_jax.evaluation.every_image import EveryImage
from yolos_jax.evaluation.one_pass import never
from yolos_jax.model.attention_cudnn import decided
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.postprocess import postprocess
from yolos_jax.model.yolos import abstract, apply_on


class Evaluation(NamedTuple):
    """Result of an evaluation."""

    metrics: dict[str, float]  # the 12 numbers by name; on Pascal VOC its own, too
    results: list[dict[str, Any]]  # of a COCO results file, all queries of all images; in the primary process only
    skipped: list[str]  # a sentence for each unreadable image, which is scored as if nothing had been found in it
    classes: ClassScores | None = None  # each class's numbers; in the primary process only

    @property
    def details(self) -> dict[str, float]:
        """Numbers of single classes by name, for TensorBoard."""
        return {} if self.classes is None else self.classes.scalars()


class Evaluator:
    """Detects on every image of a source once and computes COCO's numbers; compiled once, called often.

    Args:
      model: the detector's config.
      images: those of a source whose labels are the model's.
      query_block: see `model.config.Compute`.

    Attributes:
      images, source: the images, and where they come from.
      model, graph: its config, and its graph definition for `apply`.
      apply: `model.yolos.apply` as it is fastest on the devices.
    """

    def __init__(self, model: YolosConfig, images: EveryImage, query_block: int = Compute.query_block):
        self.source, self.model, self.images = images.source, model, images
        compute = Compute(query_block=query_block, max_side=images.geometry.model_max_side)
        devices = list(images.batching.mesh.devices.flat)
        self.graph = graph = abstract(model, decided(compute, model, devices[0]))[0]
        self.apply = applied = apply_on(devices)

        def detect(params: dict, patches: jax.Array, grid: jax.Array, size: jax.Array) -> tuple[jax.Array, ...]:
            out = applied(graph, params, patches, grid)
            return postprocess(out.logits, out.boxes, size)

        self._detect = self.images.program(detect)

    def __call__(self, params: dict) -> Evaluation:
        """Scores `params`; see `until_cancelled`."""
        result = self.until_cancelled(params, never)
        assert result is not None
        return result

    def until_cancelled(self, params: dict, cancelled: Callable[[], int]) -> Evaluation | None:
        """Scores `params`; None if `cancelled` became true on the way, in any of the processes.

        `InputError` if an image cannot be read and must not be left out, or a data worker died.
        """
        processes, examples = self.images.processes, self.source.examples
        category = np.array(self.source.category_ids)
        results: list[dict[str, Any]] = []

        def take(index: int, found: tuple[np.ndarray, ...]) -> None:
            if processes.is_primary:
                scores, labels, boxes = found
                results.extend(to_results(examples.image_ids[index], scores, category[labels], boxes))

        skipped = self.images.run(self._detect, params, take, cancelled)
        if skipped is None:
            return None
        wanted = examples.image_ids.tolist()
        metrics, classes = processes.on_primary(lambda: self._score(results, wanted)) or ({}, None)
        return Evaluation(processes.allgather(metrics)[0], results, skipped, classes)

    def _score(self, results: list[dict[str, Any]], wanted: list[int]) -> tuple[dict[str, float], ClassScores]:
        """COCO's numbers, and those of the data's own layout; and those of each class."""
        truth = self.source.ground_truth()
        own = self.source.own_metrics(truth, results, wanted) if self.source.own_metrics else {}
        metrics, classes = scored(truth, results, wanted)
        return metrics | own, classes
