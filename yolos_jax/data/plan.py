"""The plan: which images, in which view, share which batch. Data order is a function.

Everything follows from image sizes, a seed and the number of a step, without decoding. So resuming needs only the step,
and neither the number of devices nor that of workers changes the order.
"""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from yolos_jax.data.augment import Pipeline, Views
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import bucket_edges, ceil_div

ORDER = 2  # version of the order of data and views; a checkpoint of another cannot be resumed bit for bit
EDGE_SAMPLES = 20_000  # at least this many views decide the bucket edges (several epochs of a small data set)
MOST_BUCKETS = 12  # that are chosen automatically
# Steps that count as much as compiling a program. A rule, not a measurement: a run's batches must not depend on the
# machine that it goes on with.
STEPS_PER_PROGRAM = 300
EVALUATIONS = 20  # of a run, when the buckets of an evaluation are chosen


class PlannedImage(NamedTuple):
    """An image of a step."""

    place: int  # in the source
    view: Any  # what decides its view, such as the `Views` of a single image


class PlannedBatch(NamedTuple):
    """One step."""

    step: int
    indices: np.ndarray  # int64 [n]: images by their place in the source, n at most the batch size
    views: Any  # of these images: `Views`, or others of which `views.of(slot)` is one
    tokens: int = 0  # the bucket: patches that every sequence of the batch is padded to; 0 where all have one length

    def image(self, slot: int) -> PlannedImage:
        return PlannedImage(int(self.indices[slot]), self.views.of(slot))


class Plan(Protocol):
    """Random access to the steps of a run; cheap to send to another process."""

    batch_size: int

    def __len__(self) -> int: ...

    def batch(self, step: int) -> PlannedBatch:
        """The images of a step."""

    def substitute(self, planned: PlannedBatch, wanted: PlannedImage, attempt: int) -> PlannedImage | None:
        """An image in place of the unreadable one that was `wanted`, or None to leave its slot empty."""


class BucketedPlan(Plan, Protocol):
    """A plan of images of several lengths."""

    pipeline: Pipeline
    edges: list[int]


class Repeated(Protocol):
    """Images that an epoch has more than once."""

    count: int  # of images in an epoch, each as often as it comes; the same for all epochs

    def places(self, random: np.random.Generator) -> np.ndarray:
        """int64 `[count]`: every image by its place in the source, in order, then those that come again."""


class PlanOfEpochs(abc.ABC):
    """Epochs of equally many steps, computed when one is first met.

    Attributes:
      epochs: at least those given, and as many as `least_steps` take.
      steps_per_epoch: the same for every epoch.
      dropped: images left out of each epoch, less than a batch.
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
        """`epoch(number)`: what `_epoch` computes; the last two are kept."""
        return functools.lru_cache(2)(self._epoch)

    @abc.abstractmethod
    def _epoch(self, epoch: int) -> Any:
        """The order of an epoch, in what form the plan needs it."""


def evaluation_batch_size(images: int, batch_size: int, multiple: int) -> int:
    """At most as many slots as there are images, rounded up to a multiple: empty ones would only take memory."""
    return min(batch_size, ceil_div(images, multiple) * multiple)


class Epoch(NamedTuple):
    """The view of every image, and batches as int64 `[steps, B]` with their `[steps]` token counts.

    An image that is repeated has several views: `members` index the views, and `places` says which image each is of.
    """

    views: Views
    members: np.ndarray
    tokens: np.ndarray
    places: np.ndarray


class TrainingPlan(PlanOfEpochs):
    """Shuffled buckets of augmented images, epoch after epoch.

    Images go to the smallest bucket that holds their sequence; what does not fill a batch moves up to the next
    bucket, and the last incomplete batch of an epoch is dropped, as in the reference.

    Attributes:
      edges: token counts of the buckets, ascending: those that pad the plan's own sequences least.

    Args:
      sizes: int `[n, 2]`, (width, height) of the images; `InputError` if they are fewer than a batch holds.
      pipeline: how images are augmented and resized.
      batch_size: images of a global batch.
      buckets: the largest number of buckets; 0 chooses it, see `chosen_edges`.
      epochs, least_steps: see `PlanOfEpochs`.
      repeats: images that an epoch has more than once, each time in another view; None for none.
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
        """The images of an epoch by their place in the source: every one, in order, then those that are repeated."""
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
        """Share of an epoch's tokens that are padding."""
        plan = self.epoch(epoch)
        real = plan.views.of(plan.members).patches(self.pipeline.patch).sum()
        return 1.0 - float(real) / float(plan.tokens.sum() * self.batch_size)


class EvaluationPlan:
    """Every image exactly once, with images of like length; a single "epoch" of views that are not random.

    Args:
      sizes, pipeline, buckets: see `TrainingPlan`.
      batch_size: most images of a batch, see `evaluation_batch_size`; only the last one can have fewer.
      multiple: what a batch size must be a multiple of, as `batch_size` is: the number of devices.
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
        """No other image may take the place of one that is to be scored."""


def chosen_edges(counts: np.ndarray, epoch: np.ndarray, batch_size: int, steps: int) -> list[int]:
    """The bucket edges that make a run shortest: more of them pad less, and each is a program to compile.

    Args:
      counts: lengths of sequences, which decide the edges, see `bucket_edges`.
      epoch: lengths of those of one epoch, which are padded.
      steps: of the whole run.
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
    """Groups of `batch_size` images, each with the bucket edge that holds them all.

    What does not fill a group moves up to the next bucket; only the very last group can have fewer. `counts` are the
    lengths of `n` sequences, none above the last of the ascending `edges`; `order(n)` is the order to take them in.
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
