"""Attention of a detector's DET tokens to an image: in any block, and as rollout over all blocks."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from yolos_jax.errors import InputError
from yolos_jax.images.reading import ImageLike, read_rgb
from yolos_jax.images.sequence import pack, resize, rounded_tokens
from yolos_jax.inference.detector import Detector
from yolos_jax.inference.postprocess import postprocess
from yolos_jax.model.attention import attention_weights
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.vit import Block
from yolos_jax.model.yolos import Yolos, abstract


class BatchLook(NamedTuple):
    """Attention in a batch. The T tokens are CLS, the Q DET tokens, patches row by row, and padding (weight 0)."""

    scores: jax.Array  # float32 [B, Q], of each DET token's best class; this and the next two are from `postprocess`
    labels: jax.Array  # int32 [B, Q]
    boxes: jax.Array  # float32 [B, Q, 4], absolute xyxy
    attention: jax.Array  # float32 [layers, B, heads, Q, T]; each row sums to 1
    rollout: jax.Array | None  # float32 [B, Q, T], each row sums to 1; None unless requested


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """The prediction and the attention of each DET token for one image.

    The attended tokens are CLS, the Q DET tokens, then the image's `h * w` patches row by row.
    """

    image: Image.Image  # RGB, upright, at its original size
    grid: tuple[int, int]  # (h, w) in patches
    scores: np.ndarray  # float32 [Q], probability of the label
    labels: np.ndarray  # int32 [Q], the model's labels, which index its logits
    names: list[str]  # class names of the labels; a label without a name is given as a number
    boxes: np.ndarray  # float32 [Q, 4], absolute xyxy in the image's pixels
    layers: tuple[int, ...]  # blocks of `attention`, counted from 0
    attention: np.ndarray  # float32 [layers, heads, Q, 1 + Q + h * w]; each row sums to 1
    rollout: np.ndarray | None = None  # float32 [Q, 1 + Q + h * w]; each row sums to 1

    def maps(self, layer: int = -1) -> np.ndarray:
        """Attention to the patches `[heads, Q, h, w]` in one of the requested blocks (see `block_of`)."""
        layer = layer if layer >= 0 else self.layers[layer]
        return self._to_patches(self.attention[self.layers.index(layer)])

    def rollout_maps(self) -> np.ndarray:
        """Rollout to the patches, `[Q, h, w]`."""
        if self.rollout is None:
            raise ValueError("rollout was not requested")
        return self._to_patches(self.rollout)

    def over(self, threshold: float) -> np.ndarray:
        """int `[n]`, the DET tokens with at least this score, best first."""
        order = np.argsort(-self.scores, kind="stable")
        return order[self.scores[order] >= threshold]

    def _to_patches(self, weights: np.ndarray) -> np.ndarray:
        return weights[..., 1 + len(self.scores) :].reshape(*weights.shape[:-1], *self.grid)


def det_attention(detector: Detector, image: ImageLike, layer: int = -1) -> np.ndarray:
    """Attention of every DET token to an image's patches in one block, float32 `[heads, Q, h, w]`.

    The values of a token sum to less than 1; the rest is its attention to the CLS and DET tokens. `layer` is
    the index of the block; negative indices count from the last. For `detector`, `image` and the errors see `look_at`.
    """
    return look_at(detector, image, (layer,)).maps()


def look_at(detector: Detector, image: ImageLike, layers: tuple[int, ...] = (-1,), rollout: bool = False) -> Seen:
    """Runs the detector on an image and returns the attention of every DET token. Compiles once per bucket.

    Args:
      detector: provides the network and the size to which images are resized.
      image: any input of a `Detector`.
      layers: indices of the blocks whose attention is returned; negative ones count from the last. May be empty.
      rollout: whether to also compute attention rollout over all blocks (arXiv 2005.00928): the product, over
        all blocks, of half the heads' mean attention plus half the identity.

    Raises:
      UnreadableImage: the image cannot be read.
      InputError: a block does not exist.
    """
    config = detector.config
    layers = tuple(block_of(layer, config.depth) for layer in layers)
    rgb = read_rgb(image, stretch=detector.stretch)
    pixels = resize(rgb, detector.geometry.size(*rgb.size))
    h, w = (side // config.patch_size for side in pixels.shape[:2])
    most = detector.geometry.model_max_side
    batch = pack([pixels], rounded_tokens(h * w), 1, config.patch_size, most)
    size = np.array([rgb.size], np.float32)
    compute = Compute(max_side=most)
    looked: BatchLook = jax.device_get(look_at_batch(detector.params, *batch, size, config, compute, layers, rollout))
    real = 1 + config.det_tokens + h * w
    names = [detector.label_names.get(int(label), str(label)) for label in looked.labels[0]]
    passed = None if looked.rollout is None else np.asarray(looked.rollout[0, :, :real])
    scores, labels, boxes = (np.asarray(x[0]) for x in looked[:3])
    attention = np.asarray(looked.attention[:, 0, ..., :real])
    return Seen(rgb, (h, w), scores, labels, names, boxes, layers, attention, passed)


def block_of(layer: int, depth: int) -> int:
    """Converts a possibly negative block index to a nonnegative one. Raises `InputError` if there is no such block."""
    if not -depth <= layer < depth:
        raise InputError(f"there is no layer {layer}; the model has {depth} layers, counted from 0 (-1 is the last).")
    return layer % depth


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def look_at_batch(
    params: dict, patches: Any, grid: Any, size: Any, config: YolosConfig, compute: Compute,
    layers: tuple[int, ...], rollout: bool,
) -> BatchLook:  # fmt: skip
    """`look_at` for a batch of sequences (see `Yolos.__call__`); `size` `[B, 2]` is (width, height) in pixels.

    The full T x T attention is never stored, only the rows of the DET tokens and, for rollout, the input of each block,
    `[depth, B, T, D]`.
    """
    with jax.default_matmul_precision("float32"):  # GPUs would use TF32 by default
        network = nnx.merge(abstract(config, compute)[0], nnx.State(params))
        out = network(patches, grid, layers, (lambda block, x, det, length: x) if rollout else None)
        passed = _rollout(network, out.seen, jnp.asarray(grid).prod(1)) if rollout else None
        return BatchLook(*postprocess(out.logits, out.boxes, jnp.asarray(size)), out.attention, passed)


def _rollout(network: Yolos, inputs: jax.Array, area: jax.Array) -> jax.Array:
    """Computes the rollout, float32 `[B, Q, T]`, from the input of each block, `[depth, B, T, D]`.

    The result is the DET rows of the product of the blocks' matrices. The rows are multiplied by one matrix at a time,
    starting with the last block, so that no two T x T matrices are multiplied.
    """
    queries, block = network.config.det_tokens, network.compute.query_block
    length = 1 + queries + area
    tokens = inputs.shape[2]
    rows = jnp.broadcast_to(jnp.eye(queries, tokens, 1), (inputs.shape[1], queries, tokens))
    graph, layers = nnx.split(network.blocks)

    def back(rows: jax.Array, layer: tuple[nnx.State, jax.Array]) -> tuple[jax.Array, None]:
        return _through(nnx.merge(graph, layer[0]), layer[1], rows, length, block), None

    rows = _through(network.last_block, inputs[-1], rows, length, block)
    return jax.lax.scan(back, rows, (layers, inputs[:-1]), reverse=True)[0]


def _through(block: Block, x: jax.Array, rows: jax.Array, length: jax.Array, at_once: int) -> jax.Array:
    """Multiplies rows `[B, Q, T]` by half the identity plus half the heads' mean attention, in blocks of queries."""
    q, k = block.attn.queries_and_keys(block.norm1(x))
    batch, queries, tokens = rows.shape
    count = -(-tokens // at_once)

    def parts(a: jax.Array, axis: int) -> jax.Array:  # splits an axis into blocks, along a new first axis
        pad = [(0, 0)] * a.ndim
        pad[axis] = (0, count * at_once - tokens)
        a = jnp.pad(a, pad)
        return jnp.moveaxis(a.reshape(*a.shape[:axis], count, at_once, *a.shape[axis + 1 :]), axis, 0)

    def meet(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        q, share = part
        return total + share @ attention_weights(q, k, length).mean(1), None

    total, _ = jax.lax.scan(meet, jnp.zeros((batch, queries, tokens), jnp.float32), (parts(q, 1), parts(rows, 2)))
    return (rows + total) / 2
