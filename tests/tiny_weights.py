"""Small models and foreign files made on the spot, for tests that need no reference pack."""

import json
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import abstract
from yolos_jax.weights import to_huggingface, to_reference
from yolos_jax.weights.huggingface import write_config

TINY = YolosConfig(
    width=12,
    depth=3,
    heads=2,
    mlp_ratio=2.0,
    patch_size=8,
    det_tokens=5,
    num_classes=4,
    init_pe_size=(24, 40),
    mid_pe_size=(24, 40),
)


def random_params(config: YolosConfig, seed: int = 0) -> dict:
    """Parameters of which no two numbers are likely equal."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), abstract(config)[1])


def reference_state(config: YolosConfig = TINY, seed: int = 0) -> dict[str, np.ndarray]:
    return to_reference(random_params(config, seed), config)


def deit_state(config: YolosConfig = TINY, side: int = 4, distilled: bool = False) -> dict[str, np.ndarray]:
    """A classifier with the config's backbone, a square grid of positions and 7 classes."""
    rng = np.random.default_rng(1)
    state = {
        name.removeprefix("backbone."): array
        for name, array in reference_state(config).items()
        if name.startswith("backbone.") and "det_token" not in name and "mid_pos_embed" not in name
    }
    extra = {"head": (7, config.width)}
    rows = 1 + side * side
    if distilled:
        rows += 1
        state["dist_token"] = rng.standard_normal((1, 1, config.width)).astype(np.float32)
        extra["head_dist"] = (7, config.width)
    for name, shape in extra.items():
        state[f"{name}.weight"] = rng.standard_normal(shape).astype(np.float32)
        state[f"{name}.bias"] = rng.standard_normal(shape[:1]).astype(np.float32)
    state["pos_embed"] = rng.standard_normal((1, rows, config.width)).astype(np.float32)
    return state


def huggingface_folder(path: Path, config: YolosConfig = TINY, **changes) -> Path:
    """A Hugging Face folder; `changes` go into its config.json (None removes an entry)."""
    path.mkdir()
    values = write_config(config, None) | changes
    (path / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    save_file(to_huggingface(random_params(config), config), path / "model.safetensors")
    return path


def write(path: Path, state: dict) -> Path:
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path)
    return path


def assert_bit_equal(first, second) -> None:
    """Two nested dicts of float32 arrays with the same bits."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for (where, a), b in zip(jax.tree.leaves_with_path(first), jax.tree.leaves(second), strict=True):
        name = jax.tree_util.keystr(where)
        assert a.dtype == b.dtype == np.float32, name
        assert a.shape == b.shape, name
        assert a.tobytes() == b.tobytes(), name
