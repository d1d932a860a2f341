"""The paper's study of whether similar DET tokens predict nearby boxes (section 4.4).

For every image and over all pairs of DET tokens, computes the Pearson correlation of the tokens' cosine similarity with
the distance between their boxes' centres (-0.80 on average in the paper), and with the cosine similarity of their
classifier features (-0.07). The paper does not specify which tokens, distances and classifier features it uses, so this
module computes the correlations for several choices of each.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.spatial.distance import pdist

from yolos_jax.errors import InputError
from yolos_jax.evaluation.evaluator import Evaluator
from yolos_jax.model.config import YolosConfig

PAPER = {"centres": -0.80, "classifier": -0.07}
AGAINST = ("centres, fractions", "centres, pixels", "classifier, last hidden layer", "classifier, logits")
BINS = 100  # number of bins per axis of the scatter figures
SCATTERED = 0, 2  # indices in AGAINST of the quantities in the scatter figures
SPANS = (0, 2**0.5), (-1, 1)  # ranges of these quantities; the largest distance is the diagonal


def readings_of(depth: int) -> list[str]:
    """Names of the compared versions of the tokens, in the order of `Observed.tokens`."""
    blocks = [f"after block {block}" for block in range(depth)]
    return ["learned", "learned, with position", *blocks, "after the last norm"]


class Observed(NamedTuple):
    """The network's values for one image."""

    tokens: np.ndarray  # float32 [readings, Q, D], in the order of `readings_of`
    hidden: np.ndarray  # float32 [Q, D], input of the classifier's last layer
    logits: np.ndarray  # float32 [Q, K + 1]
    boxes: np.ndarray  # float32 [Q, 4], cxcywh as fractions of the sides


def observe(graph: Any, params: dict, patches: jax.Array, grid: jax.Array) -> tuple[jax.Array, ...]:
    """The fields of `Observed` for a batch, each with a leading axis `[B]`."""
    network = nnx.merge(graph, nnx.State(params))
    out = network(patches, grid, look=lambda block, x, det, length: det.astype(jnp.float32))
    learned = network.det_tokens[...]
    given = jnp.stack([learned, learned + network.pos_embed.det[...]])
    given = jnp.broadcast_to(given, (patches.shape[0], *given.shape))
    tokens = jnp.concatenate([given, jnp.moveaxis(out.seen, 0, 1), out.features[:, None]], axis=1)
    return tokens, network.class_head.hidden(out.features), out.logits, out.boxes


def cosines(x: np.ndarray) -> np.ndarray:
    """float64 `[..., Q, D]` -> `[..., P]`: cosine similarity of all pairs i < j, row by row."""
    x = np.asarray(x, np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-300)
    i, j = np.triu_indices(x.shape[-2], 1)
    return (x @ np.swapaxes(x, -1, -2))[..., i, j]


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of two arrays `[..., P]` along the last axis; NaN where one of them is constant."""
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    below = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, (a * b).sum(-1) / below, np.nan)


def compared(one: Observed, size: np.ndarray) -> np.ndarray:
    """The quantities in AGAINST, float64 `[4, P]`, for an image of (width, height) pixels."""
    centres = one.boxes[:, :2]
    return np.stack([pdist(centres), pdist(centres * size), cosines(one.hidden), cosines(one.logits)])


class Correlations:
    """Accumulates the correlations of all images, `[readings, 4]`, in constant memory.

    Args:
      depth: number of blocks of the model.
      drawn: index in `readings_of` of the tokens in the scatter figures.
    """

    def __init__(self, depth: int, drawn: int = -1):
        self.readings, self._drawn = readings_of(depth), drawn
        shape = len(self.readings), len(AGAINST)
        self.images = np.zeros(shape, np.int64)  # number of images with a defined correlation
        self._mean, self._squares = np.zeros(shape), np.zeros(shape)
        self._least, self._most = np.full(shape, np.inf), np.full(shape, -np.inf)
        # Histograms of pairs: the tokens' cosine by the distance in fractions, and by the cosine of the hidden layer.
        self.scatter = np.zeros((2, BINS, BINS), np.int64)

    @property
    def shown(self) -> str:
        """The name of the tokens in the scatter figures."""
        return self.readings[self._drawn]

    def add(self, one: Observed, size: np.ndarray) -> np.ndarray:
        """Adds an image of (width, height) pixels and returns its correlations, `[readings, 4]`."""
        likeness, against = cosines(one.tokens), compared(one, size)
        found = pearson(likeness[:, None], against[None])
        there = np.isfinite(found)
        self.images += there
        off = np.where(there, found - self._mean, 0)  # Welford's algorithm: numerically stable
        self._mean += off / np.maximum(self.images, 1)
        self._squares += np.where(there, off * (found - self._mean), 0)
        self._least = np.fmin(self._least, found)
        self._most = np.fmax(self._most, found)
        for counts, column, span in zip(self.scatter, SCATTERED, SPANS):
            binned = np.histogram2d(likeness[self._drawn], against[column], BINS, ((-1, 1), span))[0]
            counts += binned.astype(np.int64)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One row for each version of the tokens and each quantity; NaN if undefined for all images."""
        spread = np.sqrt(self._squares / np.maximum(self.images, 1))
        numbers = {"mean": self._mean, "spread": spread, "least": self._least, "most": self._most}
        out = []
        for at in np.ndindex(self.images.shape):
            row = {"tokens": self.readings[at[0]], "with": AGAINST[at[1]], "images": int(self.images[at])}
            out.append(row | {name: float(x[at]) if self.images[at] else np.nan for name, x in numbers.items()})
        return out

    def scatter_rows(self) -> list[dict[str, Any]]:
        """The values of the scatter figures: centres of the non-empty bins, and the number of pairs in each."""
        out = []
        for column, counts, (low, high) in zip(SCATTERED, self.scatter, SPANS):
            for i, j in zip(*np.nonzero(counts)):
                x = -1 + (i + 0.5) * 2 / BINS
                y = low + (j + 0.5) * (high - low) / BINS
                out.append({"with": AGAINST[column], "cosine": x, "value": y, "pairs": int(counts[i, j])})
        return out


def examine_correlation(evaluator: Evaluator, params: dict, layer: int | None = None) -> tuple[Correlations, list[str]]:
    """Computes the correlations of all images; also returns a message for each unreadable image.

    `layer` is the block whose tokens the scatter figures show, counted from 0; by default, they show the
    tokens after the last norm. Raises `InputError` if the model has too few tokens.
    """
    config, source = evaluator.model, evaluator.source
    check_tokens(config)
    found = Correlations(config.depth, -1 if layer is None else 2 + layer)
    graph, sizes = evaluator.graph, source.examples.sizes

    def take(index: int, arrays: tuple[np.ndarray, ...]) -> None:
        found.add(Observed(*arrays), sizes[index])

    observed = evaluator.over_images(lambda params, patches, grid, size: observe(graph, params, patches, grid))
    return found, observed(params, take, doing="correlating") or []


def check_tokens(config: YolosConfig) -> None:
    """Raises `InputError` if a model has too few DET tokens for a correlation over their pairs."""
    if config.det_tokens < 3:
        raise InputError(
            f"the model has {config.det_tokens} DET tokens; a correlation over their pairs needs at least 3."
        )
