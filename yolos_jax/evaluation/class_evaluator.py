"""How often a classifier is right: top-1 and top-5 over every picture of a source."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from yolos_jax.data.classification.class_loader import ClassSource, LoadClasses
from yolos_jax.data.classification.class_plan import InOrderPlan
from yolos_jax.data.classification.class_views import CentreView
from yolos_jax.data.loader import Share
from yolos_jax.distributed.processes import Processes, place
from yolos_jax.errors import InputError
from yolos_jax.evaluation.one_pass import never, one_pass
from yolos_jax.model.attention_cudnn import decided
from yolos_jax.model.classifier import abstract_classifier, classify
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import Compute
from yolos_jax.objective.soft_labels import rank_of_label


class ClassEvaluation(NamedTuple):
    """Result of an evaluation."""

    metrics: dict[str, float]  # top1 and top5, shares of all pictures
    skipped: list[str]  # a sentence for each unreadable picture, which counts as not recognised

    @property
    def details(self) -> dict[str, float]:
        """Numbers for TensorBoard alone: none."""
        return {}


class ClassEvaluator:
    """Classifies every picture of a source once; compiled once, called often.

    Args:
      model: the classifier's config; pictures are resized to its `image_size`.
      source: its classes must be the model's.
      crop_share: see `class_views.CentreView`.
      mesh, batch_size, on_bad_image, workers, ahead, query_block: see `evaluator.Evaluator`.
    """

    def __init__(
        self,
        model: ClassifierConfig,
        source: ClassSource,
        mesh: Mesh,
        batch_size: int = 8,
        crop_share: float = CentreView.share,
        on_bad_image: str = "stop",
        workers: int = 0,
        ahead: int = 2,
        query_block: int = Compute.query_block,
    ):
        if batch_size % mesh.size:
            raise InputError(f"eval.batch_size {batch_size} is not a multiple of the {mesh.size} devices.")
        self._processes, self.source, self.on_bad_image = Processes(), source, on_bad_image
        self._plan, view = InOrderPlan(len(source), batch_size, mesh.size), CentreView(model.image_size, crop_share)
        share = Share(self._processes.index, self._processes.count)
        self._work = LoadClasses(source, self._plan, view, model.patch_size, share=share)
        self._workers, self._ahead = workers, ahead
        self._split, self._same = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
        graph = abstract_classifier(model, decided(Compute(query_block=query_block), model, mesh.devices.flat[0]))[0]

        def ranks(params: dict, patches: jax.Array, labels: jax.Array, valid: jax.Array) -> jax.Array:
            """int32 `[B]`; -1 for slots without a picture."""
            found = rank_of_label(classify(graph, params, patches).mean, labels)
            return jax.numpy.where(valid, found, -1)

        self._ranks = jax.jit(ranks, out_shardings=self._same)
        self._program: Any = None

    def __call__(self, params: dict) -> ClassEvaluation:
        """Scores `params`; see `until_cancelled`."""
        result = self.until_cancelled(params, never)
        assert result is not None
        return result

    def until_cancelled(self, params: dict, cancelled: Callable[[], int]) -> ClassEvaluation | None:
        """Scores `params`; None if `cancelled` became true on the way, in any of the processes.

        `InputError` if a picture cannot be read and must not be left out, or a data worker died.
        """
        processes, params = self._processes, place(params, self._same)
        skipped: list[str] = []
        found: list[np.ndarray] = []
        more = len(self.source), self.on_bad_image, cancelled, self._workers, self._ahead
        with contextlib.closing(one_pass(processes, self._work, len(self._plan), *more)) as batches:
            for loaded in batches:
                if loaded is None:
                    return None
                batch = loaded.batch
                local = batch.patches, batch.labels, batch.valid
                arrays = [jax.make_array_from_process_local_data(self._split, x) for x in local]
                if self._program is None:  # all processes wait for the slowest compilation
                    self._program = processes.agree(self._ranks.lower(params, *arrays).compile)
                found.append(np.asarray(self._program(params, *arrays)))
                skipped += loaded.skipped
        ranks = np.concatenate(found)
        skipped = list(itertools.chain(*processes.allgather(skipped)))
        if (ranks >= 0).sum() + len(skipped) != len(self.source):
            raise RuntimeError("a picture was missed or evaluated twice; this is a bug")
        right = {f"top{k}": int(((ranks >= 0) & (ranks < k)).sum()) / len(self.source) for k in (1, 5)}
        return ClassEvaluation(right, skipped)
