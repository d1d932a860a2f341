"""Plans the images of each batch and their augmentation, using only image sizes, a seed and the step number.

No images are decoded. A run can be resumed from its step number, and the order of the data does not depend on the
number of devices or workers.
"""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from yolos_jax.data.augment import Pipeline, Views
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import bucket_edges, ceil_div

ORDER = 2  # version of the shuffling and augmentation; runs from other versions cannot be resumed bit for bit
EDGE_SAMPLES = 20_000  # minimum number of views used to compute bucket edges (several epochs of a small data set)
MOST_BUCKETS = 12  # maximum number of buckets if their number is chosen automatically
# Assumed cost of compiling one program, in steps. This is a constant, not a measurement, because the batches of a run
# must not depend on the machine.
STEPS_PER_PROGRAM = 300
EVALUATIONS = 20  # assumed number of evaluations per run when the number of buckets is chosen automatically


class PlannedImage(NamedTuple):
    """An image in a batch."""

    place: int  # index in the source
    view: Any  # augmentation of the image, such as the `Views` of a single image


class PlannedBatch(NamedTuple):
    """The images of a step, with their augmentation and padded length."""

    step: int
    indices: np.ndarray  # int64 [n]: indices of images in the source; n is at most the batch size
    views: Any  # augmentation of these images: `Views`, or another type with a method `of(slot)`
    tokens: int = 0  # padded length of the bucket in patches; 0 if all sequences have the same length

    def image(self, slot: int) -> PlannedImage:
        return PlannedImage(int(self.indices[slot]), self.views.of(slot))


class Plan(Protocol):
    """Provides random access to the steps of a run. A plan is cheap to pickle."""

    batch_size: int

    def __len__(self) -> int: ...

    def batch(self, step: int) -> PlannedBatch:
        """Returns the images of a step."""

    def substitute(self, planned: PlannedBatch, wanted: PlannedImage, attempt: int) -> PlannedImage | None:
        """Returns a substitute for the unreadable image `wanted`, or None to leave its slot empty."""


class BucketedPlan(Plan, Protocol):
    """A plan for sequences of several lengths."""

    pipeline: Pipeline
    edges: list[int]


class Repeated(Protocol):
    """Repeats some images within an epoch."""

    count: int  # number of images per epoch, including repetitions; the same for all epochs

    def places(self, random: np.random.Generator) -> np.ndarray:
        """Returns indices in the source, int64 `[count]`: all images in order, then the repeated images."""


class PlanOfEpochs(abc.ABC):
    """A sequence of epochs with the same number of steps. Each epoch is computed when it is first used.

    Attributes:
      epochs: the number of epochs, increased if necessary to reach `least_steps`.
      steps_per_epoch: the number of steps in each epoch.
      dropped: number of images dropped from each epoch because they do not fill a batch.
    """

    def __init__(self, images: int, batch_size: int, epochs: int, seed: int, least_steps: int = 0):
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch, self.dropped = divmod(images, batch_size)
        if not self.steps_per_epoch:
            few = f"{images} training images do not fill one batch of {batch_size}"
            raise InputError(f"{few}; decrease train.batch_size.")
        self.epochs = max(epochs, ceil_div(least_steps, self.steps_per_epoch))

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "epoch"}  # without the cache

    @functools.cached_property
    def epoch(self) -> Callable[[int], Any]:
        """The function `_epoch` with a cache of the last two epochs."""
        return functools.lru_cache(2)(self._epoch)

    @abc.abstractmethod
    def _epoch(self, epoch: int) -> Any:
        """Returns the order of an epoch; the type depends on the subclass."""


def evaluation_batch_size(images: int, batch_size: int, multiple: int) -> int:
    """Limits `batch_size` to the number of images, rounded up to a multiple of `multiple`, to avoid unused slots."""
    return min(batch_size, ceil_div(images, multiple) * multiple)


class Epoch(NamedTuple):
    """The views and batches of an epoch. A repeated image has several views."""

    views: Views
    members: np.ndarray  # int64 [steps, B]: indices of the views in each batch
    tokens: np.ndarray  # int64 [steps]: padded length of each batch
    places: np.ndarray  # int64 [views]: source index of each view's image


class TrainingPlan(PlanOfEpochs):
    """Epochs of shuffled batches of augmented images, grouped by sequence length.

    Each image is assigned to the smallest bucket that is large enough for its sequence. Images that do not fill a batch
    move up to the next bucket, and an incomplete last batch of an epoch is dropped, as in the reference.

    Attributes:
      edges: padded lengths of the buckets in tokens, in ascending order, chosen to minimise padding.

    Args:
      sizes: (width, height) of the images, int `[n, 2]`; raises `InputError` if they do not fill a batch.
      pipeline: how images are augmented and resized.
      batch_size: number of images per global batch.
      buckets: maximum number of buckets; 0 chooses the number automatically, see `chosen_edges`.
      epochs, least_steps: see `PlanOfEpochs`.
      repeats: repeats images within an epoch, each time with a different view; None for no repetition.
    """

    def __init__(
        self, sizes: np.ndarray, pipeline: Pipeline, batch_size: int, buckets: int, epochs: int, seed: int,
        least_steps: int = 0, repeats: Repeated | None = None,
    ):  # fmt: skip
        super().__init__(repeats.count if repeats else len(sizes), batch_size, epochs, seed, least_steps)
        self.sizes, self.pipeline, self.repeats = np.asarray(sizes, np.int64), pipeline, repeats
        sampled = range(min(self.epochs, ceil_div(EDGE_SAMPLES, len(self.sizes))))
        counts = [self.views(epoch).patches(pipeline.patch) for epoch in sampled]
        every = np.concatenate([*counts, [pipeline.longest(self.sizes)]])
        if buckets:
            self.edges = bucket_edges(every, buckets)
        else:
            self.edges = chosen_edges(every, counts[0], batch_size, len(self))

    def places(self, epoch: int) -> np.ndarray:
        """Returns the source indices of the images of an epoch: all images in order, then the repeated images."""
        if self.repeats is None:
            return np.arange(len(self.sizes))
        return self.repeats.places(np.random.default_rng([self.seed, epoch, 2]))

    def views(self, epoch: int) -> Views:
        """Returns the views of an epoch, one for each entry of `places`."""
        return self.pipeline.views(self.sizes[self.places(epoch)], self.seed, epoch)

    def _epoch(self, epoch: int) -> Epoch:
        views = self.views(epoch)
        random = np.random.default_rng([self.seed, epoch, 1])
        groups = fill_buckets(views.patches(self.pipeline.patch), self.edges, self.batch_size, random.permutation)
        batches = [(edge, group) for edge, group in groups if len(group) == self.batch_size]
        order = random.permutation(len(batches))
        members = np.stack([group for _, group in batches])[order]
        return Epoch(views, members, np.array([edge for edge, _ in batches])[order], self.places(epoch))

    def batch(self, step: int) -> PlannedBatch:
        epoch, place = divmod(step, self.steps_per_epoch)
        views, members, tokens, places = self.epoch(epoch)
        chosen = members[place]
        return PlannedBatch(step, places[chosen], views.of(chosen), int(tokens[place]))

    def substitute(self, planned: PlannedBatch, wanted: PlannedImage, attempt: int) -> PlannedImage | None:
        """Returns the `attempt`-th image after the unreadable image, in source order, that fits the bucket."""
        views, _, _, places = self.epoch(planned.step // self.steps_per_epoch)
        others = (wanted.place + 1 + np.arange(len(places) - 1)) % len(places)
        others = others[places[others] != wanted.place]
        fits = others[views.of(others).patches(self.pipeline.patch) <= planned.tokens]
        if attempt >= len(fits):
            return None
        chosen = int(fits[attempt])
        return PlannedImage(int(places[chosen]), views.of(chosen))

    def padding(self, epoch: int = 0) -> float:
        """Returns the fraction of tokens in an epoch that are padding."""
        plan = self.epoch(epoch)
        real = plan.views.of(plan.members).patches(self.pipeline.patch).sum()
        return 1.0 - float(real) / float(plan.tokens.sum() * self.batch_size)


class EvaluationPlan:
    """A single epoch that contains each image exactly once, in batches of similar length and without augmentation.

    Args:
      sizes, pipeline, buckets: see `TrainingPlan`.
      batch_size: maximum number of images per batch, see `evaluation_batch_size`; only the last batch can be smaller.
      multiple: the number of devices; divides both `batch_size` and the batch size that is used.
    """

    def __init__(self, sizes: np.ndarray, pipeline: Pipeline, batch_size: int, buckets: int, multiple: int = 1):
        self.pipeline = pipeline
        self.batch_size = evaluation_batch_size(len(sizes), batch_size, multiple)
        self._views = pipeline.views(sizes, seed=0, epoch=0)
        counts = self._views.patches(pipeline.patch)
        again = ceil_div(len(counts), self.batch_size) * EVALUATIONS
        self.edges = bucket_edges(counts, buckets) if buckets else chosen_edges(counts, counts, self.batch_size, again)
        self._groups = fill_buckets(counts, self.edges, self.batch_size, np.arange)

    def __len__(self) -> int:
        return len(self._groups)

    def batch(self, step: int) -> PlannedBatch:
        edge, indices = self._groups[step]
        return PlannedBatch(step, indices, self._views.of(indices), edge)

    def substitute(self, planned: PlannedBatch, wanted: PlannedImage, attempt: int) -> None:
        """Returns None, because images are not substituted in evaluation."""


def chosen_edges(counts: np.ndarray, epoch: np.ndarray, batch_size: int, steps: int) -> list[int]:
    """Returns bucket edges that minimise the estimated time of a run: each bucket reduces padding but must be compiled.

    Args:
      counts: sequence lengths from which edges are computed, see `bucket_edges`.
      epoch: sequence lengths of one epoch, to estimate padding.
      steps: number of steps of the whole run.
    """
    best: list[int] = []
    least = np.inf
    for buckets in range(1, MOST_BUCKETS + 1):
        edges = bucket_edges(counts, buckets)
        groups = fill_buckets(epoch, edges, batch_size, np.arange)
        padded = sum(edge * len(group) for edge, group in groups) / epoch.sum() - 1.0
        cost = steps * padded + STEPS_PER_PROGRAM * len(edges)
        if cost < least:
            best, least = edges, cost
    return best


def fill_buckets(
    counts: np.ndarray, edges: Sequence[int], batch_size: int, order: Callable[[int], np.ndarray]
) -> list[tuple[int, np.ndarray]]:
    """Groups images into batches of `batch_size` and assigns the smallest possible bucket edge to each batch.

    Images that do not fill a batch move up to the next bucket; only the last batch can be smaller. `counts` are the
    lengths of `n` sequences, at most the last of the ascending `edges`. `order(n)` returns the order of the images.
    """
    bucket = np.searchsorted(edges, counts)
    queue = order(len(counts))
    groups, left = [], np.empty(0, np.int64)
    for b, edge in enumerate(edges):
        members = np.concatenate([left, queue[bucket[queue] == b]])
        full = len(members) if b == len(edges) - 1 else len(members) // batch_size * batch_size
        groups += [(int(edge), members[start:full][:batch_size]) for start in range(0, full, batch_size)]
        left = members[full:]
    return groups
