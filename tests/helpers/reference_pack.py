"""Finds the reference values and converts them.

The environment variable YOLOS_REFERENCE names their folder. If it is not set, they are read from ../shared/reference,
next to the repository, or, if that folder does not exist, from the small copy in tests/reference. The tests do not
depend on the sizes, counts or seeds of a particular pack.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from yolos_jax.images.sequence import pack as pack_batch
from yolos_jax.model.config import YolosConfig

ROOT = Path(__file__).resolve().parents[2]
PARITY_VARIANTS = ("init_only", "mid", "distilled")


def reference_folder() -> Path:
    if "YOLOS_REFERENCE" in os.environ:
        return Path(os.environ["YOLOS_REFERENCE"])
    shared = ROOT.parent / "shared" / "reference"
    return shared if shared.is_dir() else ROOT / "tests" / "reference"


def data_folder(name: str) -> Path:
    """A folder of real images in YOLOS_DATA (default: ../shared/data); skips the test if it does not exist."""
    folder = Path(os.environ.get("YOLOS_DATA", ROOT.parent / "shared" / "data")) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist (the licences of its images do not allow redistribution)")
    return folder


def pack(name: str) -> Path:
    """The path of a file in the reference pack; skips the test if it does not exist."""
    path = reference_folder() / name
    if not path.exists():
        pytest.skip(f"{path} does not exist (set YOLOS_REFERENCE to the full reference pack)")
    return path


def arrays(name: str) -> np.lib.npyio.NpzFile:
    return np.load(pack(name))


def tensors(name: str) -> dict[str, np.ndarray]:
    return load_file(pack(name))


def config_of(state: dict[str, np.ndarray], heads: int, init_hw, mid_hw=None) -> YolosConfig:
    """The config for a reference state dict; its shapes do not determine the number of heads and the grids."""
    width, _, patch, _ = state["backbone.patch_embed.proj.weight"].shape
    depth = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("backbone.blocks."))
    has_mid = "backbone.mid_pos_embed" in state
    return YolosConfig(
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=state["backbone.blocks.0.mlp.fc1.weight"].shape[0] / width,
        patch_size=patch,
        det_tokens=state["backbone.det_token"].shape[1],
        num_classes=state["class_embed.layers.2.weight"].shape[0] - 1,
        init_pe_size=tuple(int(v) for v in init_hw),
        mid_pe_size=tuple(int(v) for v in mid_hw) if has_mid else None,
    )


def micro_config(name: str) -> YolosConfig:
    """The config of `model_{name}`, from its tensors and its arrays."""
    z = arrays(f"model_{name}.npz")
    return config_of(tensors(f"model_{name}.safetensors"), len(z["attn0"]), z["init_pe_hw"], z["mid_pe_hw"])


def train_config() -> YolosConfig:
    """The config of the training traces: the `mid` micro model with the position grids in train_data.npz."""
    z = arrays("train_data.npz")
    heads = len(arrays("model_mid.npz")["attn0"])
    return config_of(tensors("train_init.safetensors"), heads, z["init_pe_hw"], z["mid_pe_hw"])


def image_sequence(chw: np.ndarray, patch: int = 16):
    """Packs a normalised `[3, H, W]` float image into a batch of one: float32 patches and the grid."""
    image = np.ascontiguousarray(chw.transpose(1, 2, 0), np.float32)
    tokens = (image.shape[0] // patch) * (image.shape[1] // patch)
    return pack_batch([image], tokens, 1, patch)
