"""Evaluates a classifier: top-1 and top-5 accuracy on a data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from yolos_jax.accelerators.choice import decided
from yolos_jax.accelerators.precision import dtype_of, products_of
from yolos_jax.data.loader import Loaded
from yolos_jax.evaluation.image_pass import Batching, ImagePass
from yolos_jax.model.classifier import abstract_classifier, classify
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import Compute
from yolos_jax.tasks.classification.batches import ClassSource, classification_work
from yolos_jax.tasks.classification.plan import InOrderPlan
from yolos_jax.tasks.classification.soft_labels import rank_of_label
from yolos_jax.tasks.classification.views import CentreView

TOPS = {"top1": 1, "top5": 5}  # k of each top-k accuracy


class ClassEvaluation(NamedTuple):
    """The result of an evaluation."""

    metrics: dict[str, float]  # top1 and top5 accuracy, 0..1
    skipped: list[str]  # a message for each unreadable image; these count as misclassified

    @property
    def details(self) -> dict[str, float]:
        """Additional metrics for sinks; a classifier has none."""
        return {}

    def text(self) -> str:
        """The metrics, one per line."""
        return "\n".join(f"{name} {value:.4f}" for name, value in self.metrics.items())

    def write(self, folder: Path, facts: dict[str, Any]) -> None:
        """Writes the metrics and `facts` about the evaluation to `metrics.json`."""
        from yolos_jax.evaluation.coco_metrics import write_metrics  # imports pycocotools

        write_metrics(folder, self.metrics | facts)


class ClassEvaluator:
    """Classifies every image in a data set. It is compiled once and can be called repeatedly.

    Args:
      model: the classifier's config; images are resized to its `image_size`.
      source: the data set, which must have the model's classes.
      batching: see `image_pass.Batching`.
      crop_share: see `views.CentreView`.
      query_block: see `model.config.Compute`.
      precision: see `accelerators.precision`.
    """

    def __init__(
        self,
        model: ClassifierConfig,
        source: ClassSource,
        batching: Batching,
        crop_share: float = CentreView.share,
        query_block: int = Compute.query_block,
        precision: str = "float32",
    ):
        self.source = source
        devices = batching.mesh.devices
        plan = InOrderPlan(len(source), batching.batch_size, devices.size)
        view = CentreView(model.image_size, crop_share)
        compute = Compute(query_block=query_block, compute_dtype=dtype_of(precision))
        graph = abstract_classifier(model, decided(compute, model, devices.flat[0]))[0]

        def ranks(params: dict, patches: jax.Array, labels: jax.Array) -> tuple[jax.Array]:
            """int32 `[B]`, the rank of each label; see `rank_of_label`."""
            with jax.default_matmul_precision(products_of(precision)):
                return (rank_of_label(classify(graph, params, patches).mean, labels),)

        self._ranks = ImagePass(
            batching,
            ranks,
            _inputs,
            lambda share: classification_work(source, plan, view, model.patch_size, share=share),
            len(source),
        )

    def __call__(self, params: dict) -> ClassEvaluation:
        """Evaluates `params`; see `until_cancelled`."""
        result = self.until_cancelled(params)
        assert result is not None
        return result

    def until_cancelled(self, params: dict, cancelled: Callable[[], int] | None = None) -> ClassEvaluation | None:
        """Evaluates `params`; returns None if `cancelled` returned a true value in any process.

        Raises `InputError` if an image cannot be read and must not be skipped, or if a data worker died.
        """
        ranks: list[int] = []
        skipped = self._ranks(params, lambda index, found: ranks.append(int(found[0])), cancelled)
        if skipped is None:
            return None
        right = {name: sum(rank < most for rank in ranks) / len(self.source) for name, most in TOPS.items()}
        return ClassEvaluation(right, skipped)


def _inputs(loaded: Loaded) -> tuple[np.ndarray, ...]:
    return loaded.batch.patches, loaded.batch.labels
