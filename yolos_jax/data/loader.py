"""From examples to batches: which images go together, and decoding ahead of the device."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from yolos_jax.data.examples import Example, Source, TrainBatch, pack_targets
from yolos_jax.errors import InputError
from yolos_jax.pictures import UnreadableImage
from yolos_jax.sequence import Geometry, bucket_edges, pack, resize

THREADS = 4  # Pillow decodes and resizes without the interpreter lock
AHEAD = 4  # batches prepared before they are asked for


class Group(NamedTuple):
    """Images that share a batch: indices into the source, and the bucket's token count."""

    indices: tuple[int, ...]
    tokens: int


class Loaded(NamedTuple):
    """A batch, the examples in its first slots, and a sentence for each picture left out."""

    batch: TrainBatch
    examples: list[Example]
    skipped: list[str]


def evaluation_groups(tokens: Sequence[int], batch_size: int, buckets: int) -> list[Group]:
    """Every image exactly once, batched with images of like length.

    What does not fill a batch moves up to the next bucket, so at most the very
    last batch is short.
    """
    edges = np.array(bucket_edges(tokens, buckets))
    bucket = np.searchsorted(edges, tokens)
    groups, left = [], np.empty(0, np.int64)
    for b, edge in enumerate(edges):
        members = np.concatenate([left, np.flatnonzero(bucket == b)])
        full = len(members) if b == len(edges) - 1 else len(members) // batch_size * batch_size
        for start in range(0, full, batch_size):
            groups.append(Group(tuple(int(i) for i in members[start : min(start + batch_size, full)]), int(edge)))
        left = members[full:]
    return groups


def training_groups(
    tokens: Sequence[int], batch_size: int, edges: Sequence[int], seed: int, epoch: int
) -> Iterator[Group]:
    """One epoch in a shuffled order that depends on (seed, epoch) alone.

    A batch takes the smallest bucket (of the ascending `edges`) that holds its
    longest sequence. The last incomplete batch is dropped, as in the reference.
    """
    tokens = np.asarray(tokens)
    order = np.random.default_rng((seed, epoch)).permutation(len(tokens))
    for row in order[: len(order) // batch_size * batch_size].reshape(-1, batch_size):
        yield Group(tuple(int(i) for i in row), int(edges[np.searchsorted(edges, tokens[row].max())]))


def batches(
    source: Source,
    groups: Iterable[Group],
    geometry: Geometry,
    batch_size: int,
    most_boxes: int,
    on_bad_image: str = "stop",
) -> Iterator[Loaded]:
    """Yields every group as a batch, decoding and resizing ahead in threads.

    Args:
      most_boxes: M, at least every example's number of boxes.
      on_bad_image: "stop" raises `InputError` at the first picture that cannot
        be read; "skip" leaves its slot empty and says so in `Loaded.skipped`.
    """

    def image(index: int) -> np.ndarray | UnreadableImage:
        example = source.examples[index]
        try:
            return resize(source.read(example), geometry.size(example.width, example.height))
        except UnreadableImage as error:
            return error

    def collect(group: Group, pending: list[Future]) -> Loaded:
        images, kept, skipped = [], [], []
        for index, future in zip(group.indices, pending):
            result = future.result()
            if isinstance(result, np.ndarray):
                images.append(result)
                kept.append(source.examples[index])
            elif on_bad_image == "stop":
                raise InputError(f"{result} Mend it, or set --config.data.on_bad_image=skip.")
            else:
                skipped.append(str(result))
        sequences = pack(images, group.tokens, batch_size, geometry.patch, geometry.model_max_side)
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        targets = pack_targets(kept, sizes, batch_size, most_boxes)
        return Loaded(TrainBatch(*sequences, **targets), kept, skipped)

    with ThreadPoolExecutor(THREADS) as pool:
        waiting: list[tuple[Group, list[Future]]] = []
        try:
            for group in groups:
                waiting.append((group, [pool.submit(image, i) for i in group.indices]))
                if len(waiting) > AHEAD:
                    yield collect(*waiting.pop(0))
            while waiting:
                yield collect(*waiting.pop(0))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
