"""The plan of a run: the images of each batch and their views. Data order is a pure function.

Everything follows from image sizes, a seed and the step number, without decoding. So resuming needs only the step,
and the order does not depend on the number of devices or workers.
"""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from yolos_jax.data.augment import Pipeline, Views
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import bucket_edges, ceil_div

ORDER = 2  # version of the order of data and views; checkpoints of other versions cannot be resumed bit for bit
EDGE_SAMPLES = 20_000  # minimum number of views that determine the bucket edges (several epochs of a small data set)
MOST_BUCKETS = 12  # limit of the automatic choice
# Steps that count as much as compiling one program. This is not measured, because a run's batches must not depend on
# the machine.
STEPS_PER_PROGRAM = 300
EVALUATIONS = 20  # assumed number of evaluations per run, when their buckets are chosen


class PlannedImage(NamedTuple):
    """An image of a step."""

    place: int  # index in the source
    view: Any  # its augmentation, such as the `Views` of a single image


class PlannedBatch(NamedTuple):
    """One step."""

    step: int
    indices: np.ndarray  # int64 [n]: indices of images in the source, n at most the batch size
    views: Any  # of these images: `Views`, or another type with a method `of(slot)`
    tokens: int = 0  # the bucket: padded length in patches; 0 if all sequences have the same length

    def image(self, slot: int) -> PlannedImage:
        return PlannedImage(int(self.indices[slot]), self.views.of(slot))


class Plan(Protocol):
    """Random access to the steps of a run; cheap to pickle."""

    batch_size: int

    def __len__(self) -> int: ...

    def batch(self, step: int) -> PlannedBatch:
        """The images of a step."""

    def substitute(self, planned: PlannedBatch, wanted: PlannedImage, attempt: int) -> PlannedImage | None:
        """A substitute for the unreadable image `wanted`, or None to leave its slot empty."""


class BucketedPlan(Plan, Protocol):
    """A plan for sequences of several lengths."""

    pipeline: Pipeline
    edges: list[int]


class Repeated(Protocol):
    """Repeats some images within an epoch."""

    count: int  # images in an epoch, repetitions included; the same for all epochs

    def places(self, random: np.random.Generator) -> np.ndarray:
        """int64 `[count]`: the index of every image in the source, in order, then those of the repeated images."""


class PlanOfEpochs(abc.ABC):
    """Epochs with the same number of steps each, computed on first use.

    Attributes:
      epochs: at least the given number, and enough for `least_steps`.
      steps_per_epoch: the same for every epoch.
      dropped: images left out of each epoch, fewer than a batch.
    """

    def __init__(self, images: int, batch_size: int, epochs: int, seed: int, least_steps: int = 0):
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch, self.dropped = divmod(images, batch_size)
        if not self.steps_per_epoch:
            few = f"{images} training images do not fill one batch of {batch_size}"
            raise InputError(f"{few}; lower train.batch_size.")
        self.epochs = max(epochs, ceil_div(least_steps, self.steps_per_epoch))

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "epoch"}  # without the cache

    @functools.cached_property
    def epoch(self) -> Callable[[int], Any]:
        """`epoch(number)`: `_epoch` with a cache of the last two."""
        return functools.lru_cache(2)(self._epoch)

    @abc.abstractmethod
    def _epoch(self, epoch: int) -> Any:
        """The order of an epoch, in a form of the subclass's choice."""


def evaluation_batch_size(images: int, batch_size: int, multiple: int) -> int:
    """`batch_size`, limited to the number of images rounded up to `multiple`: more slots would waste memory."""
    return min(batch_size, ceil_div(images, multiple) * multiple)


class Epoch(NamedTuple):
    """The view of every image, and batches as int64 `[steps, B]` with their `[steps]` token counts.

    A repeated image has several views: `members` are indices of views, and `places` maps each view to its image.
    """

    views: Views
    members: np.ndarray
    tokens: np.ndarray
    places: np.ndarray


class TrainingPlan(PlanOfEpochs):
    """Shuffled buckets of augmented images, epoch after epoch.

    Each image goes to the smallest bucket that holds its sequence. Images that do not fill a batch move up to the
    next bucket, and the last incomplete batch of an epoch is dropped, as in the reference.

    Attributes:
      edges: ascending token counts of the buckets, which minimise the padding of the plan's sequences.

    Args:
      sizes: int `[n, 2]`, (width, height) of the images; `InputError` if they do not fill a batch.
      pipeline: how images are augmented and resized.
      batch_size: images per global batch.
      buckets: maximum number of buckets; 0 chooses it, see `chosen_edges`.
      epochs, least_steps: see `PlanOfEpochs`.
      repeats: repeats images within an epoch, each time with another view; None for no repetition.
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
        """The indices of an epoch's images in the source: every image, in order, then the repeated ones."""
        if self.repeats is None:
            return np.arange(len(self.sizes))
        return self.repeats.places(np.random.default_rng([self.seed, epoch, 2]))

    def views(self, epoch: int) -> Views:
        """The view of each of an epoch's `places`."""
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
        """The `attempt`-th image after the unreadable one, in the source's order, that fits the bucket."""
        views, _, _, places = self.epoch(planned.step // self.steps_per_epoch)
        others = (wanted.place + 1 + np.arange(len(places) - 1)) % len(places)
        others = others[places[others] != wanted.place]
        fits = others[views.of(others).patches(self.pipeline.patch) <= planned.tokens]
        if attempt >= len(fits):
            return None
        chosen = int(fits[attempt])
        return PlannedImage(int(places[chosen]), views.of(chosen))

    def padding(self, epoch: int = 0) -> float:
        """Fraction of an epoch's tokens that are padding."""
        plan = self.epoch(epoch)
        real = plan.views.of(plan.members).patches(self.pipeline.patch).sum()
        return 1.0 - float(real) / float(plan.tokens.sum() * self.batch_size)


class EvaluationPlan:
    """Every image exactly once, batched with images of similar length; a single epoch without random views.

    Args:
      sizes, pipeline, buckets: see `TrainingPlan`.
      batch_size: maximum images per batch, see `evaluation_batch_size`; only the last batch can have fewer.
      multiple: batch sizes are multiples of it, `batch_size` included: the number of devices.
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
        """None: an image to be scored has no substitute."""


def chosen_edges(counts: np.ndarray, epoch: np.ndarray, batch_size: int, steps: int) -> list[int]:
    """The bucket edges that minimise a run's time: more buckets pad less, but each needs a compilation.

    Args:
      counts: sequence lengths that determine the edges, see `bucket_edges`.
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
    """Groups of `batch_size` images, each with the smallest bucket edge that holds them all.

    Images that do not fill a group move up to the next bucket; only the last group can have fewer. `counts` are the
    lengths of `n` sequences, at most the last of the ascending `edges`; `order(n)` is the order in which to take them.
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
