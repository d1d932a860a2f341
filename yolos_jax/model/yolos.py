"""The detector's network: sequences of patches in, class logits and boxes out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.init import starting_values
from yolos_jax.model.position import resize_to_tokens
from yolos_jax.model.vit import Block, Head, Linear, layer_norm, zeros

MEAN = (0.485, 0.456, 0.406)  # ImageNet statistics of RGB in 0..1
STD = (0.229, 0.224, 0.225)


class Outputs(NamedTuple):
    """What the network says about a batch.

    Attributes:
      logits: float32 `[B, Q, K + 1]`; index K is "no object".
      boxes: float32 `[B, Q, 4]`, cxcywh as fractions of the image's sides.
      features: float32 `[B, Q, D]`, DET tokens after the final norm.
      attention: float32 `[layers, B, heads, Q, T]`, DET tokens' attention over
        all tokens (CLS, DET, patches, padding), or None if not asked for.
    """

    logits: jax.Array
    boxes: jax.Array
    features: jax.Array
    attention: jax.Array | None


class Positions(nnx.Module):
    """Position embeddings: one for CLS, one per DET token, a grid for the patches.

    With `layers`, a stack of that many sets (the mid-layer embeddings).
    """

    def __init__(self, config: YolosConfig, grid: tuple[int, int], layers: tuple[int, ...] = ()):
        self.cls = zeros(*layers, 1, config.width)
        self.det = zeros(*layers, config.det_tokens, config.width)
        self.grid = zeros(*layers, *grid, config.width)


class Yolos(nnx.Module):
    """YOLOS (paper, section 2): ViT blocks over `[CLS, DET..., patches..., padding]`.

    The blocks before the last are stacked and scanned, so compile time does not
    grow with depth; the last one computes its DET tokens only.
    """

    def __init__(self, config: YolosConfig):
        self.config = config
        width = config.width
        self.patch_embed = Linear(config.patch_values, width)
        self.cls_token = zeros(1, width)
        self.det_tokens = zeros(config.det_tokens, width)
        self.pos_embed = Positions(config, config.init_grid)
        scanned = config.depth - 1
        if config.mid_grid is not None:
            self.mid_pos_embed = Positions(config, config.mid_grid, (scanned,))
        self.blocks = _stack([Block(config) for _ in range(scanned)])
        self.last_block = Block(config)
        self.norm = layer_norm(config)
        self.class_head = Head(width, config.num_classes + 1)
        self.box_head = Head(width, 4)

    def __call__(self, patches: jax.Array, grid: jax.Array, attention_layers: tuple[int, ...] | None = None) -> Outputs:
        """Detects.

        Args:
          patches: `[B, N, 3 * patch_size ** 2]`, RGB patches row by row, values
            in (row, column, channel) order; uint8 pixels, or floats that are
            already normalised. Slots from `h * w` on are padding.
          grid: int32 `[B, 2]`, each image's (h, w) in patches; both sides at
            most `config.max_side` (the host checks, see `sequence.pack`).
          attention_layers: static; blocks whose DET attention to return
            (negative numbers count from the last).

        Returns:
          `Outputs`; an image's do not depend on what it is batched with.
        """
        config = self.config
        for layer in attention_layers or ():
            if not -config.depth <= layer < config.depth:
                raise InputError(f"there is no layer {layer}; the model has {config.depth}, counted from 0.")
        if patches.dtype == jnp.uint8:
            patches = normalize(patches)
        tokens = patches.shape[1]
        area = grid[:, 0] * grid[:, 1]
        real = (jnp.arange(tokens) < area[:, None])[..., None]
        dtype = jnp.dtype(config.compute_dtype)
        x = jnp.where(real, self.patch_embed(patches.astype(dtype)), 0)
        x = self._prefix(self.cls_token[...].astype(dtype), self.det_tokens[...].astype(dtype), x)
        x += self._positions(nnx.state(self.pos_embed), grid, tokens).astype(dtype)
        det = slice(1, 1 + config.det_tokens)
        length = 1 + config.det_tokens + area
        want = None if attention_layers is None else det

        graph, blocks = nnx.split(self.blocks)
        middle = nnx.state(self.mid_pos_embed) if config.mid_grid is not None else None

        def step(x: jax.Array, layer: tuple[Any, Any]) -> tuple[jax.Array, jax.Array | None]:
            block, middle = layer
            x, weights = nnx.merge(graph, block)(x, length, want_weights=want)
            if middle is not None:
                x += self._positions(middle, grid, tokens).astype(dtype)
            return x, weights

        # prevent_cse guards against a saving that a scan does not have
        step = jax.checkpoint(step, prevent_cse=False) if config.remat else step
        x, weights = jax.lax.scan(step, x, (blocks, middle))
        x, last_weights = self.last_block(x, length, det, want)
        features = self.norm(x).astype(jnp.float32)
        attention = None
        if attention_layers is not None:
            last = last_weights[None]  # type: ignore[index]  # not None, since they were asked for
            attention = jnp.concatenate([weights, last])[jnp.array(attention_layers)]
        boxes = jax.nn.sigmoid(self.box_head(features))
        return Outputs(self.class_head(features), boxes, features, attention)

    def _prefix(self, cls: jax.Array, det: jax.Array, patches: jax.Array) -> jax.Array:
        start = jnp.concatenate([cls, det])
        return jnp.concatenate([jnp.broadcast_to(start, (patches.shape[0], *start.shape)), patches], axis=1)

    def _positions(self, tables: Any, grid: jax.Array, tokens: int) -> jax.Array:
        """`[B, T, D]` embeddings of every token, each image at its own size."""
        source, bound = tables["grid"][...], self.config.max_side

        def one(size: jax.Array) -> jax.Array:
            resized = resize_to_tokens(source, size, tokens, bound)
            count = source.shape[0] * source.shape[1]
            if not self.config.skip_equal_count or count > tokens:
                return resized
            as_is = jnp.pad(source.reshape(count, -1), ((0, tokens - count), (0, 0)))
            return jnp.where(size[0] * size[1] == count, as_is, resized)

        patches = jax.vmap(one)(grid)
        return self._prefix(tables["cls"][...], tables["det"][...], patches)


def _stack(blocks: list[Block]) -> Block:
    """One block whose parameters have a leading axis over `blocks`."""
    graph, *_ = nnx.split(blocks[0])
    states = [nnx.state(block) for block in blocks]
    return nnx.merge(graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


def normalize(patches: jax.Array) -> jax.Array:
    """uint8 RGB patches `[..., 3 n]` -> float32, ImageNet-normalised as in the reference."""
    repeat = patches.shape[-1] // 3
    mean, std = jnp.tile(jnp.float32(MEAN), repeat), jnp.tile(jnp.float32(STD), repeat)
    return (patches.astype(jnp.float32) / 255.0 - mean) / std


def build(config: YolosConfig, seed: int = 0, scheme: str = "reference") -> tuple[Any, dict]:
    """A freshly initialised model.

    Args:
      seed, scheme: see `model.init.starting_values`.

    Returns:
      (graph definition, parameters as a nested dict of float32 numpy arrays);
      join them again with `apply`.
    """
    graph, shapes = abstract(config)
    return graph, starting_values(shapes, seed, scheme)


def abstract(config: YolosConfig) -> tuple[Any, dict]:
    """Like `build`, with shapes and dtypes in place of arrays; computes nothing."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Yolos(config)))
    return graph, nnx.to_pure_dict(state)


def apply(graph: Any, params: dict, *args: Any, **kwargs: Any) -> Outputs:
    """Calls the model as a pure function of its parameters (see `Yolos.__call__`)."""
    return nnx.merge(graph, nnx.State(params))(*args, **kwargs)
