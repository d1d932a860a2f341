"""The image classifier used to initialise a detector: maps sequences of patches to class logits.

The parameters shared with a detector (patch embedding, CLS token, blocks, norm) have the same names and shapes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from yolos_jax.errors import InputError
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import Compute
from yolos_jax.model.init import fill, starting_values
from yolos_jax.model.position import resize_to_tokens
from yolos_jax.model.vit import Block, LayerNorm, Linear, parameter, scan_blocks
from yolos_jax.model.yolos import normalize


class Logits(NamedTuple):
    """The network's outputs for a batch."""

    cls: jax.Array  # float32 [B, K], from the CLS token
    distilled: jax.Array | None  # float32 [B, K], from the distillation token, if there is one

    @property
    def mean(self) -> jax.Array:
        """float32 `[B, K]`, the logits to use for classification."""
        return self.cls if self.distilled is None else (self.cls + self.distilled) / 2


class SquarePositions(nnx.Module):
    """Position embeddings for the CLS token, the distillation token (if any) and a grid of patches."""

    def __init__(self, config: ClassifierConfig):
        self.cls = parameter(1, config.width)
        self.dist = parameter(1, config.width) if config.distilled else None
        self.grid = parameter(*config.grid, config.width)

    def __call__(self, rows: int, columns: int) -> jax.Array:
        """float32 `[T + rows * columns, D]`; the grid is resized as in the detector unless it already fits."""
        table = self.grid[...]
        patches = table.reshape(-1, table.shape[-1])
        if table.shape[:2] != (rows, columns):
            sizes = jnp.array([[rows, columns]], jnp.int32)
            patches = resize_to_tokens(table, sizes, rows * columns, max(rows, columns))[0]
        return jnp.concatenate([*_existing(self.cls, self.dist), patches])


class Classifier(nnx.Module):
    """A ViT over `[CLS, (distillation,) patches...]`, built from the detector's blocks.

    All blocks but the last are stacked and scanned. The last one computes only the tokens that the heads use.

    Args:
      config: the architecture.
      compute: settings for precision, memory use and speed.
      rngs: its `params` stream seeds the initial values.
      scheme: initialisation scheme, see `model.init.starting_values`; "reference" is the one used by DeiT.
    """

    def __init__(
        self, config: ClassifierConfig, compute: Compute = Compute(), *, rngs: nnx.Rngs, scheme: str = "reference"
    ):
        self.config, self.compute = config, compute
        width = config.width
        scanned = (config.depth - 1,)
        self.patch_embed = Linear(config.patch_values, width)
        self.cls_token = parameter(1, width)
        self.dist_token = parameter(1, width) if config.distilled else None
        self.pos_embed = SquarePositions(config)
        self.blocks = Block(config, compute, scanned)
        self.last_block = Block(config, compute)
        self.norm = LayerNorm(config)
        self.head = Linear(width, config.num_classes)
        self.head_dist = Linear(width, config.num_classes) if config.distilled else None
        fill(self, rngs.params(), scheme)

    def __call__(
        self, patches: jax.Array, size: tuple[int, int] | None = None, branches: jax.Array | None = None
    ) -> Logits:
        """Classifies images that all have the same size.

        Args:
          patches: `[B, N, 3 * patch_size ** 2]`, RGB patches row by row, values in (row, column, channel) order;
            uint8 pixels, or floats that are already normalised. There is no padding.
          size: static; (rows, columns) of patches in each image; the default follows from `config.image_size`.
          branches: float32 `[B, depth, 2]`, scale factors for the two branches of each block (stochastic depth).
        """
        config, dtype = self.config, jnp.dtype(self.compute.compute_dtype)
        rows, columns = size or config.grid
        if patches.shape[1] != rows * columns:
            raise InputError(f"an image has {rows} x {columns} patches, but the sequences have {patches.shape[1]}.")
        if patches.dtype == jnp.uint8:
            patches = normalize(patches)
        special = jnp.concatenate(_existing(self.cls_token, self.dist_token)).astype(dtype)
        special = jnp.broadcast_to(special, (patches.shape[0], *special.shape))
        x = jnp.concatenate([special, self.patch_embed(patches.astype(dtype))], axis=1)
        x += self.pos_embed(rows, columns).astype(dtype)
        length = jnp.full(x.shape[:1], x.shape[1], jnp.int32)
        graph, layers = nnx.split(self.blocks)

        def step(x: jax.Array, layer: tuple[nnx.State, jax.Array | None]) -> tuple[jax.Array, None]:
            return nnx.merge(graph, layer[0])(x, length, branches=layer[1])[0], None

        special_tokens = slice(0, config.special_tokens)
        if branches is None:
            x, _ = scan_blocks(step, x, (layers, None), self.compute)
            x, _ = self.last_block(x, length, special_tokens)
        else:
            each = branches.swapaxes(0, 1)
            x, _ = scan_blocks(step, x, (layers, each[:-1]), self.compute)
            x, _ = self.last_block(x, length, special_tokens, branches=each[-1])
        x = self.norm(x).astype(jnp.float32)
        distilled = None if self.head_dist is None else self.head_dist(x[:, 1:2])[:, 0]
        return Logits(self.head(x[:, :1])[:, 0], distilled)


def _existing(*parameters: nnx.Param | None) -> list[jax.Array]:
    return [one[...] for one in parameters if one is not None]


def classifier_params(config: ClassifierConfig, seed: int = 0, scheme: str = "reference") -> dict:
    """Initial parameter values, like those that `model.yolos.build` returns for a detector."""
    return starting_values(abstract_classifier(config)[1], [seed], scheme)


def abstract_classifier(config: ClassifierConfig, compute: Compute = Compute()) -> tuple[Any, dict]:
    """(graph definition, parameters as a nested dict of shapes and dtypes), like `model.yolos.abstract`."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Classifier(config, compute, rngs=nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)


def classify(graph: Any, params: dict, *args: Any, **kwargs: Any) -> Logits:
    """Calls the network as a pure function of its parameters (see `Classifier.__call__`)."""
    with jax.numpy_rank_promotion("allow"):
        return nnx.merge(graph, nnx.State(params))(*args, **kwargs)
