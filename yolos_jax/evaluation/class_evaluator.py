"""How often a classifier is right: top-1 and top-5 over every image of a source."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from yolos_jax.data.classification.class_batches import ClassSource, classification_work
from yolos_jax.data.classification.class_plan import InOrderPlan
from yolos_jax.data.classification.class_views import CentreView
from yolos_jax.data.loader import Loaded
from yolos_jax.evaluation.one_pass import Batching, Passes, never
from yolos_jax.model.attention_cudnn import decided
from yolos_jax.model.classifier import abstract_classifier, classify
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import Compute
from yolos_jax.objective.soft_labels import rank_of_label

TOPS = {"top1": 1, "top5": 5}  # among how many classes a label must be


class ClassEvaluation(NamedTuple):
    """Result of an evaluation."""

    metrics: dict[str, float]  # top1 and top5, shares of all images
    skipped: list[str]  # a sentence for each unreadable image, which counts as not recognised

    @property
    def details(self) -> dict[str, float]:
        """Numbers for TensorBoard alone: none."""
        return {}


class ClassEvaluator:
    """Classifies every image of a source once; compiled once, called often.

    Args:
      model: the classifier's config; images are resized to its `image_size`.
      source: its classes must be the model's.
      batching: see `one_pass.Batching`.
      crop_share: see `class_views.CentreView`.
      query_block: see `model.config.Compute`.
    """

    def __init__(
        self,
        model: ClassifierConfig,
        source: ClassSource,
        batching: Batching,
        crop_share: float = CentreView.share,
        query_block: int = Compute.query_block,
    ):
        self.source, mesh = source, batching.mesh
        plan = InOrderPlan(len(source), batching.batch_size, mesh.size)
        view = CentreView(model.image_size, crop_share)
        self._passes = Passes(
            batching,
            lambda share: classification_work(source, plan, view, model.patch_size, share=share),
            len(plan),
            len(source),
            _inputs,
        )
        graph = abstract_classifier(model, decided(Compute(query_block=query_block), model, mesh.devices.flat[0]))[0]

        def ranks(params: dict, patches: jax.Array, labels: jax.Array, valid: jax.Array) -> jax.Array:
            """int32 `[B]`; -1 for slots without an image."""
            found = rank_of_label(classify(graph, params, patches).mean, labels)
            return jax.numpy.where(valid, found, -1)

        self._ranks = self._passes.program(ranks)

    def __call__(self, params: dict) -> ClassEvaluation:
        """Scores `params`; see `until_cancelled`."""
        result = self.until_cancelled(params, never)
        assert result is not None
        return result

    def until_cancelled(self, params: dict, cancelled: Callable[[], int]) -> ClassEvaluation | None:
        """Scores `params`; None if `cancelled` became true on the way, in any of the processes.

        `InputError` if an image cannot be read and must not be left out, or a data worker died.
        """
        found: list[np.ndarray] = []
        skipped = self._passes.run(self._ranks, params, found.append, cancelled)
        if skipped is None:
            return None
        ranks = np.concatenate(found)
        if (ranks >= 0).sum() + len(skipped) != len(self.source):
            raise RuntimeError("an image was missed or evaluated twice; this is a bug")
        right = {name: int(((ranks >= 0) & (ranks < k)).sum()) / len(self.source) for name, k in TOPS.items()}
        return ClassEvaluation(right, skipped)


def _inputs(loaded: Loaded) -> tuple[np.ndarray, ...]:
    return loaded.batch.patches, loaded.batch.labels, loaded.batch.valid
