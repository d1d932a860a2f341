"""The detector network: maps sequences of patches to class logits and boxes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from yolos_jax.errors import InputError
from yolos_jax.model import on_cpu
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.init import fill, starting_values
from yolos_jax.model.position import Positions
from yolos_jax.model.vit import Block, Head, LayerNorm, Linear, parameter, prepend, scan_blocks

MEAN = (0.485, 0.456, 0.406)  # ImageNet statistics of RGB in 0..1
STD = (0.229, 0.224, 0.225)


class Outputs(NamedTuple):
    """The network's outputs for a batch."""

    logits: jax.Array  # float32 [B, Q, K + 1]; index K is "no object"
    boxes: jax.Array  # float32 [B, Q, 4], cxcywh as fractions of the image's sides
    features: jax.Array  # float32 [B, Q, D], DET tokens after the final norm
    # float32 [layers, B, heads, Q, T], if requested: attention from DET tokens to CLS, DET, patches and padding
    attention: jax.Array | None
    seen: Any = None  # the results of `look` for all blocks, stacked along a leading axis of size `depth`


Layers = tuple[int, ...]
# (block, its input [B, T, D], the DET tokens of its output [B, Q, D], number of real tokens int32 [B]) -> arrays
Look = Callable[[Block, jax.Array, jax.Array, jax.Array], Any]


class Yolos(nnx.Module):
    """YOLOS (paper, section 2): ViT blocks over `[CLS, DET..., patches..., padding]`.

    All blocks but the last are stacked and scanned, so that compile time does not grow with depth. The last one
    computes only its DET tokens.

    Args:
      config: the architecture.
      compute: settings for precision, memory use and speed.
      rngs: its `params` stream seeds the initial values.
      scheme: initialisation scheme, "reference" or "from_nothing" (see `model.init.starting_values`).
    """

    def __init__(self, config: YolosConfig, compute: Compute = Compute(), *, rngs: nnx.Rngs, scheme: str = "reference"):
        self.config, self.compute = config, compute
        width = config.width
        scanned = (config.depth - 1,)
        self.patch_embed = Linear(config.patch_values, width)
        self.cls_token = parameter(1, width)
        self.det_tokens = parameter(config.det_tokens, width)
        self.pos_embed = Positions(config, compute, config.init_grid)
        mid = config.mid_grid
        self.mid_pos_embed = None if mid is None else Positions(config, compute, mid, scanned)
        self.blocks = Block(config, compute, scanned)
        self.last_block = Block(config, compute)
        self.norm = LayerNorm(config)
        self.class_head = Head(width, config.num_classes + 1)
        self.box_head = Head(width, 4)
        fill(self, rngs.params(), scheme)

    def __call__(
        self, patches: jax.Array, grid: jax.Array, attention_layers: Layers | None = None, look: Look | None = None
    ) -> Outputs:
        """Runs the network.

        Args:
          patches: `[B, N, 3 * patch_size ** 2]`, RGB patches row by row, values in (row, column, channel) order;
            uint8 pixels, or floats that are already normalised. Slots from index `h * w` onwards are padding.
          grid: int32 `[B, 2]`, each image's (h, w) in patches; both sides at most `compute.max_side` (checked on
            the host, see `sequence.pack`).
          attention_layers: static; indices of the blocks whose DET attention is returned (-1 is the last).
          look: static; function called for every block; its results are in `Outputs.seen`.

        Returns:
          `Outputs`. The results for an image do not depend on the other images in the batch.
        """
        depth, queries = self.config.depth, self.config.det_tokens
        for layer in attention_layers or ():
            if not -depth <= layer < depth:
                raise InputError(f"there is no layer {layer}; the model has {depth} layers, counted from 0.")
        whole = 1 + queries + patches.shape[1]
        patches = jnp.pad(patches, ((0, 0), (0, -whole % self.compute.token_multiple), (0, 0)))
        grid = jnp.asarray(grid)  # `jax.checkpoint` cannot close over NumPy arrays
        x = self._embedded(patches, grid)

        det = slice(1, 1 + queries)
        length = 1 + queries + grid[:, 0] * grid[:, 1]
        want = None if attention_layers is None else det
        graph, layers = nnx.split(self.blocks)
        mid_graph, mid = nnx.split(self.mid_pos_embed)

        def positions(layer: Any) -> Any:
            return nnx.merge(mid_graph, layer)(grid, patches.shape[1]).astype(x.dtype)  # type: ignore[misc]

        unrolled = self.compute.unroll == "on"
        # Resizes all blocks' embeddings at once, in a few large operations instead of many small ones.
        added: Any = jax.vmap(positions)(mid) if unrolled and mid else mid

        def step(x: jax.Array, layer: tuple[nnx.State, Any]) -> tuple[jax.Array, tuple[jax.Array | None, Any]]:
            block = nnx.merge(graph, layer[0])
            before = x
            x, weights = block(x, length, want_weights=want)
            seen = look(block, before, x[:, det], length) if look else None
            if mid:
                x += layer[1] if unrolled else positions(layer[1])
            return x, (weights, seen)

        before, (weights, seen) = scan_blocks(step, x, (layers, added), self.compute)
        x, last_weights = self.last_block(before, length, det, want)
        if look:
            last_seen = look(self.last_block, before, x, length)
            seen = jax.tree.map(lambda some, last: jnp.concatenate([some, last[None]]), seen, last_seen)

        features = self.norm(x).astype(jnp.float32)
        attention = None
        if attention_layers is not None:
            last = last_weights[None]  # type: ignore[index]  # not None, because the weights were requested
            attention = jnp.concatenate([weights, last])[jnp.array(attention_layers, jnp.int32), ..., :whole]
        boxes = jax.nn.sigmoid(self.box_head(features))
        return Outputs(self.class_head(features), boxes, features, attention, seen)

    def _embedded(self, patches: jax.Array, grid: jax.Array) -> jax.Array:
        """The input to the first block, `[B, 1 + Q + N, D]` in the dtype of the transformer; padding is zero."""
        if patches.dtype == jnp.uint8:
            patches = normalize(patches)
        dtype, tokens = jnp.dtype(self.compute.compute_dtype), patches.shape[1]
        real = (jnp.arange(tokens) < (grid[:, 0] * grid[:, 1])[:, None])[..., None]
        x = jnp.where(real, self.patch_embed(patches.astype(dtype)), 0)
        x = prepend(self.cls_token[...].astype(dtype), self.det_tokens[...].astype(dtype), x)
        return x + self.pos_embed(grid, tokens).astype(dtype)


def normalize(patches: jax.Array) -> jax.Array:
    """uint8 RGB patches `[..., 3 n]` -> float32, ImageNet-normalised as in the reference."""
    repeat = patches.shape[-1] // 3
    mean = jnp.tile(jnp.float32(MEAN), repeat)
    std = jnp.tile(jnp.float32(STD), repeat)
    return (patches.astype(jnp.float32) / 255.0 - mean) / std


def build(
    config: YolosConfig, seed: int = 0, scheme: str = "reference", compute: Compute = Compute()
) -> tuple[Any, dict]:
    """Like `abstract`, but with parameter values from `model.init.starting_values` for this seed and scheme."""
    graph, shapes = abstract(config, compute)
    return graph, starting_values(shapes, [seed], scheme)


def abstract(config: YolosConfig, compute: Compute = Compute()) -> tuple[Any, dict]:
    """(graph definition, parameters as a nested dict of shapes and dtypes), for `apply`; computes nothing."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Yolos(config, compute, rngs=nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)


def apply(graph: Any, params: dict, *args: Any, **kwargs: Any) -> Outputs:
    """Calls the model as a pure function of its parameters; `args` and `kwargs` are passed to `Yolos.__call__`."""
    with jax.numpy_rank_promotion("allow"):  # biases are broadcast over batches, even if the process forbids this
        return nnx.merge(graph, nnx.State(params))(*args, **kwargs)


def apply_on(devices: Sequence[jax.Device]) -> Callable[..., Outputs]:
    """The fastest version of `apply` for these devices, called with (graph, params, patches, grid)."""
    alone = len(devices) == 1 and devices[0].platform == "cpu"
    return apply_in_turn if alone else apply


apply_in_turn = on_cpu.in_turn(apply)
