"""Runs a detector on every image of a data set and scores the detections."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from yolos_jax.accelerators.choice import decided
from yolos_jax.accelerators.precision import dtype_of, products_of
from yolos_jax.data.augment import Pipeline
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.loader import Loaded
from yolos_jax.data.plan import EvaluationPlan
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.evaluation.category_scores import CategoryScores
from yolos_jax.evaluation.coco_metrics import kind_of, scored, table, to_results, write_report
from yolos_jax.evaluation.image_pass import Batching, ImagePass
from yolos_jax.evaluation.settings import PYCOCOTOOLS
from yolos_jax.evaluation.validation_loss import ValidationLoss
from yolos_jax.images.sequence import Geometry
from yolos_jax.inference.postprocess import postprocess
from yolos_jax.inference.suppression import check_nms, suppressed
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.yolos import abstract, apply_on


class Evaluation(NamedTuple):
    """The result of an evaluation."""

    metrics: dict[str, float]  # the 12 COCO metrics by name, and layout-specific metrics and the loss if computed
    results: list[dict[str, Any]]  # entries of a COCO results file for all queries; in the primary process only
    skipped: list[str]  # a message for each unreadable image, which is scored as if it had no detections
    categories: CategoryScores | None = None  # metrics per category; in the primary process only

    @property
    def details(self) -> dict[str, float]:
        """Metrics per category, keyed by name; `training.metrics` writes them only to the sink."""
        return {} if self.categories is None else self.categories.scalars()

    def text(self) -> str:
        """The metrics as a printable table."""
        return table(self.metrics)

    def write(self, folder: Path, facts: dict[str, Any]) -> None:
        """Writes `metrics.json`, with `facts` about the evaluation, and `results.json`."""
        write_report(folder, self.metrics | facts | {"skipped": self.skipped}, self.results)


class Evaluator:
    """Runs detection on every image of a data set and computes COCO metrics; compiles once for repeated calls.

    Args:
      model: the detector's config.
      source: the data set, which must have the same labels as the model.
      geometry: the size that images are resized to.
      batching: see `image_pass.Batching`.
      buckets: maximum number of sequence lengths to compile for.
      query_block: see `model.config.Compute`.
      loss: a loss to compute for the same images and add to `metrics`.
      nms: see `suppression.suppressed`.
      precision: see `accelerators.precision`.
      backend: see `coco_metrics`.

    Attributes:
      model, source: the arguments.
      graph: the model's graph definition, for `model.yolos.apply`.
      detect: the pass that computes `postprocess`: scores, labels and boxes of every query.
    """

    def __init__(
        self,
        model: YolosConfig,
        source: DataSet,
        geometry: Geometry,
        batching: Batching,
        buckets: int = 4,
        query_block: int = Compute.query_block,
        loss: ValidationLoss | None = None,
        nms: float | None = None,
        precision: str = "float32",
        backend: str = PYCOCOTOOLS,
    ):
        check_nms(nms)
        kind_of(backend)  # raises an error early if the backend is not installed
        self._nms, self._precision, self._backend = nms, precision, backend
        self.model = model
        self._loss = loss
        self.source = source
        self._geometry = geometry
        self._batching = batching
        pipeline, devices = Pipeline.of(geometry), batching.mesh.size
        self._plan = EvaluationPlan(source.examples.sizes, pipeline, batching.batch_size, buckets, devices)
        self.graph = graph = self._graph(query_block)
        wants_outputs = loss is not None
        apply = apply_on(list(batching.mesh.devices.flat))

        def detect(params: dict, patches: jax.Array, grid: jax.Array, size: jax.Array) -> tuple[jax.Array, ...]:
            with jax.default_matmul_precision(products_of(precision)):
                out = apply(graph, params, patches, grid)
            found = postprocess(out.logits, out.boxes, size)
            return (*found, out.logits, out.boxes) if wants_outputs else found

        self.detect = self.over_images(detect)

    def _graph(self, query_block: int) -> Any:
        dtype, most = dtype_of(self._precision), self._geometry.model_max_side
        compute = Compute(query_block=query_block, max_side=most, compute_dtype=dtype)
        return abstract(self.model, decided(compute, self.model, self._batching.mesh.devices.flat[0]))[0]

    def over_images(self, function: Callable[..., tuple[jax.Array, ...]]) -> ImagePass:
        """Creates a pass over the images to score.

        Args:
          function: (parameters, patches, grid, size) -> arrays with a leading axis of images. `patches` and `grid` are
            the model's inputs, and `size` `[B, 2]` is (width, height) in pixels.
        """
        geometry = self._geometry
        plan = self._plan
        sizes = self.source.examples.sizes

        def inputs(loaded: Loaded) -> tuple[np.ndarray, ...]:
            there = loaded.indices[:, None] >= 0
            size = np.where(there, sizes[loaded.indices], 1).astype(np.int32)
            return loaded.batch.patches, loaded.batch.grid, size

        return ImagePass(
            self._batching,
            function,
            inputs,
            lambda share: detection_work(self.source, plan, geometry.patch, geometry.model_max_side, share),
            len(sizes),
        )

    def __call__(self, params: dict) -> Evaluation:
        """Scores `params`; see `until_cancelled`."""
        result = self.until_cancelled(params)
        assert result is not None
        return result

    def until_cancelled(self, params: dict, cancelled: Callable[[], int] | None = None) -> Evaluation | None:
        """Scores `params`; returns None if `cancelled` returned true in any process.

        Raises `InputError` if an image cannot be read and may not be skipped, or if a data worker died.
        """
        processes, image_ids = self.detect.processes, self.source.examples.image_ids
        category = np.array(self.source.category_ids)
        results: list[dict[str, Any]] = []
        summed = self._loss.begin() if self._loss and processes.is_primary else None

        def take(index: int, found: tuple[np.ndarray, ...]) -> None:
            if processes.is_primary:
                scores, labels, boxes, *outputs = found
                if summed is not None:
                    summed.add(index, *outputs)
                if self._nms is not None:
                    stay = suppressed(scores, labels, boxes, self._nms)
                    scores, labels, boxes = scores[stay], labels[stay], boxes[stay]
                results.extend(to_results(image_ids[index], scores, category[labels], boxes))

        skipped = self.detect(params, take, cancelled)
        if skipped is None:
            return None
        metrics, categories = processes.on_primary(self._score, results, image_ids.tolist()) or ({}, None)
        if summed is not None:
            metrics["loss"] = summed.total()
        return Evaluation(processes.allgather(metrics)[0], results, skipped, categories)

    def _score(self, results: list[dict[str, Any]], wanted: list[int]) -> tuple[dict[str, float], CategoryScores]:
        """Computes the COCO metrics, those specific to the layout, and the metrics per category."""
        truth = self.source.ground_truth()
        own = self.source.own_metrics(truth, results, wanted) if self.source.own_metrics else {}
        metrics, categories = scored(truth, results, wanted, self._backend)
        return metrics | own, categories
