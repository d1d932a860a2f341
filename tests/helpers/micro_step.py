"""A model config and a batch for a training step that compiles quickly."""

import jax
import numpy as np

from yolos_jax.data.examples import TrainBatch
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.model.config import YolosConfig

CONFIG = YolosConfig(
    width=24, depth=3, heads=2, patch_size=8, det_tokens=5, num_classes=7, init_pe_size=(32, 48), mid_pe_size=(32, 48)
)
MESH = data_mesh(jax.devices()[:1])


def batch_of(images=4, tokens=24) -> TrainBatch:
    rng = np.random.default_rng(0)
    grid = np.array([(4, 6), (3, 5), (6, 4), (2, 2)], np.int32)[:images]
    count = np.array([2, 0, 3, 1], np.int32)[:images]
    boxes = rng.uniform(0.2, 0.4, (images, 3, 4)).astype(np.float32)
    labels = rng.integers(0, 7, (images, 3)).astype(np.int32)
    patches = rng.integers(0, 256, (images, tokens, 192), np.uint8)
    return TrainBatch(patches, grid, labels, boxes, count, np.ones(images, bool))
