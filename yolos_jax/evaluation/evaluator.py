"""Runs a model over every image of a source and scores it."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from yolos_jax.data.augment import Pipeline
from yolos_jax.data.examples import DataSet
from yolos_jax.data.layouts import voc
from yolos_jax.data.loader import Loaded, LoadStep, Share
from yolos_jax.data.plan import EvaluationPlan
from yolos_jax.distributed.processes import Processes, place
from yolos_jax.errors import InputError
from yolos_jax.evaluation.coco_metrics import coco_metrics, to_results
from yolos_jax.evaluation.one_pass import never, one_pass
from yolos_jax.evaluation.voc_metrics import voc_metrics
from yolos_jax.images.sequence import Geometry
from yolos_jax.inference.postprocess import postprocess
from yolos_jax.model.attention_cudnn import decided
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.yolos import abstract, apply


class Evaluation(NamedTuple):
    """Result of an evaluation."""

    metrics: dict[str, float]  # the 12 numbers by name; on Pascal VOC its own, too
    results: list[dict[str, Any]]  # of a COCO results file, all queries of all images; in the primary process only
    skipped: list[str]  # a sentence for each unreadable image, which is scored as if nothing had been found in it


class Evaluator:
    """Detects on every image of a source once and computes COCO's numbers; compiled once, called often.

    Args:
      model: the detector's config.
      source: its labels must be the model's.
      mesh: devices along the axis `data`.
      batch_size: images at a time, a multiple of the devices.
      buckets: most token counts to compile for.
      on_bad_image: "stop" raises `InputError` at an image that cannot be read.
      workers, ahead: see `data.loader.load`.
      query_block: see `model.config.Compute`.
    """

    def __init__(
        self,
        model: YolosConfig,
        source: DataSet,
        geometry: Geometry,
        mesh: Mesh,
        batch_size: int = 8,
        buckets: int = 4,
        on_bad_image: str = "stop",
        workers: int = 0,
        ahead: int = 2,
        query_block: int = Compute.query_block,
    ):
        if batch_size % mesh.size:
            raise InputError(f"eval.batch_size {batch_size} is not a multiple of the {mesh.size} devices.")
        self._processes = Processes()
        self.source, self.batch_size, self.on_bad_image = source, batch_size, on_bad_image
        self._plan = EvaluationPlan(source.examples.sizes, Pipeline.of(geometry), batch_size, buckets, mesh.size)
        share = Share(self._processes.index, self._processes.count)
        self._work = LoadStep(source, self._plan, geometry.patch, geometry.model_max_side, share)
        self._workers, self._ahead = workers, ahead
        self._split, self._same = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
        compute = Compute(query_block=query_block, max_side=geometry.model_max_side)
        graph = abstract(model, decided(compute, model, mesh.devices.flat[0]))[0]

        def detect(
            params: dict, indices: jax.Array, patches: jax.Array, grid: jax.Array, size: jax.Array
        ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            out = apply(graph, params, patches, grid)
            return indices, *postprocess(out.logits, out.boxes, size)

        # Every process gets what all of them found: some kilobytes a batch.
        self._detect = jax.jit(detect, out_shardings=self._same)
        self._programs: dict[int, Any] = {}

    def __call__(self, params: dict) -> Evaluation:
        """Scores `params`; see `until_cancelled`."""
        result = self.until_cancelled(params, never)
        assert result is not None
        return result

    def until_cancelled(self, params: dict, cancelled: Callable[[], int]) -> Evaluation | None:
        """Scores `params`; None if `cancelled` became true on the way, in any of the processes.

        `InputError` if an image cannot be read and must not be left out, or a data worker died.
        """
        processes = self._processes
        params = place(params, self._same)
        results: list[dict[str, Any]] = []
        skipped: list[str] = []
        done: list[int] = []
        more = len(self.source.examples), self.on_bad_image, cancelled, self._workers, self._ahead
        with contextlib.closing(one_pass(processes, self._work, len(self._plan), *more)) as batches:
            for loaded in batches:
                if loaded is None:
                    return None
                done += self._detections(params, loaded, results)
                skipped += loaded.skipped
        skipped = list(itertools.chain(*processes.allgather(skipped)))
        wanted = self.source.examples.image_ids.tolist()
        if len(done) + len(skipped) != len(wanted) or len(set(done)) != len(done):
            raise RuntimeError("an image was missed or evaluated twice; this is a bug")
        metrics = processes.on_primary(lambda: self._score(results, wanted))
        return Evaluation(processes.allgather(metrics)[0], results, skipped)

    def _score(self, results: list[dict[str, Any]], wanted: list[int]) -> dict[str, float]:
        """COCO's numbers, and VOC's own on its data."""
        truth = self.source.ground_truth()
        own = voc_metrics(truth, results, wanted) if self.source.layout == voc.NAME else {}
        return coco_metrics(truth, results, wanted) | own

    def _detections(self, params: dict, loaded: Loaded, results: list[dict[str, Any]]) -> list[int]:
        """Image ids of a batch, of all processes' shares; the primary one appends the entries of a results file."""
        there = loaded.indices[:, None] >= 0
        size = np.where(there, self.source.examples.sizes[loaded.indices], 1).astype(np.int32)
        local = np.int32(loaded.indices), loaded.batch.patches, loaded.batch.grid, size
        arrays = [jax.make_array_from_process_local_data(self._split, x) for x in local]
        category, images = np.array(self.source.category_ids), []
        for index, scores, labels, boxes in zip(*jax.device_get(self._program(params, arrays)(params, *arrays))):
            if index >= 0:
                images.append(int(self.source.examples.image_ids[index]))
                if self._processes.is_primary:
                    results += to_results(images[-1], scores, category[labels], boxes)
        return images

    def _program(self, params: dict, arrays: list[jax.Array]) -> Any:
        """The detector compiled for a bucket; all processes wait for the slowest compilation."""
        tokens = arrays[1].shape[1]
        if tokens not in self._programs:
            self._programs[tokens] = self._processes.agree(self._detect.lower(params, *arrays).compile)
        return self._programs[tokens]
