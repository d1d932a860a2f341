"""Small generated models, and weights in the formats of other packages, for tests without the reference pack."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
from reference_pack import pack
from safetensors.numpy import save_file

from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import abstract
from yolos_jax.weights.backbone import find_backbone
from yolos_jax.weights.deit import from_deit
from yolos_jax.weights.huggingface import to_huggingface
from yolos_jax.weights.huggingface_config import write_config
from yolos_jax.weights.reference import to_reference
from yolos_jax.weights.report import Report
from yolos_jax.weights.tensor_names import huggingface_names

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


# Models with the heads and position embeddings of each variant in the paper, at micro width and depth.
MICRO = {
    "ti": YolosConfig(width=12, depth=3, heads=3, det_tokens=5, num_classes=4, init_pe_size=(48, 83)),
    "s": YolosConfig(
        width=24, depth=3, heads=6, det_tokens=5, num_classes=4, init_pe_size=(32, 48), mid_pe_size=(32, 48)
    ),
    "s_dwr": YolosConfig(
        width=30, depth=5, heads=6, det_tokens=5, num_classes=4, init_pe_size=(32, 48), mid_pe_size=(32, 48)
    ),
    "b": YolosConfig(
        width=48, depth=3, heads=12, det_tokens=5, num_classes=4, init_pe_size=(48, 80), mid_pe_size=(48, 80)
    ),
}


def random_params(config: YolosConfig, seed: int = 0) -> dict:
    """Random parameters; any two values are almost certainly different."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), abstract(config)[1])


def reference_state(config: YolosConfig = TINY, seed: int = 0) -> dict[str, np.ndarray]:
    return to_reference(random_params(config, seed), config)


def deit_state(config: YolosConfig = TINY, side: int = 4, distilled: bool = False) -> dict[str, np.ndarray]:
    """The state dict of a classifier with the config's backbone, a square grid of positions and 7 classes."""
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


def _more(state: dict, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Adds random tensors to a state dict."""
    rng = np.random.default_rng(2)
    return state | {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def bare_vit(config: YolosConfig = TINY, side: int = 4) -> dict[str, np.ndarray]:
    """A state dict like those of the published DINO backbones: timm names and no head."""
    return {name: array for name, array in deit_state(config, side).items() if not name.startswith("head")}


def dino_teacher(config: YolosConfig = TINY) -> dict[str, np.ndarray]:
    """A state dict like "teacher" in full DINO checkpoints; in "student", names start with `module.`."""
    state = {f"backbone.{name}": array for name, array in bare_vit(config).items()}
    head = {"head.mlp.0.weight": (8, config.width), "head.mlp.0.bias": (8,), "head.last_layer.weight_g": (9, 1)}
    return _more(state, head)


def moco_state(config: YolosConfig = TINY) -> dict[str, np.ndarray]:
    """A state dict like "state_dict" in MoCo v3 checkpoints; the momentum encoder has different values."""
    vit, width = bare_vit(config), config.width
    state = {f"module.base_encoder.{name}": array for name, array in vit.items()}
    state |= {f"module.momentum_encoder.{name}": array + 1 for name, array in vit.items()}
    heads = {f"module.{part}_encoder.head.0.weight": (8, width) for part in ("base", "momentum")}
    return _more(state, heads | {"module.predictor.0.weight": (8, 8), "module.predictor.1.running_mean": (8,)})


def mae_state(config: YolosConfig = TINY, finetuned: bool = False) -> dict[str, np.ndarray]:
    """A state dict like "model" in MAE checkpoints: pre-trained with its decoder, or fine-tuned on pooled tokens."""
    state, width = bare_vit(config), config.width
    if not finetuned:
        decoder = {"mask_token": (1, 1, 8), "decoder_embed.weight": (8, width), "decoder_blocks.0.norm1.weight": (8,)}
        return _more(state, decoder)
    for name in ("weight", "bias"):
        state[f"fc_norm.{name}"] = state.pop(f"norm.{name}")
    return _more(state, {"head.weight": (7, width), "head.bias": (7,)})


def transformers_vit(config: YolosConfig = TINY, distilled: bool = False) -> dict[str, np.ndarray]:
    """The state dict of a transformers classifier: a ViT or, if distilled, a DeiT."""
    prefix, state = ("deit" if distilled else "vit"), deit_state(config, distilled=distilled)
    heads = {"classifier.weight": state.pop("head.weight"), "classifier.bias": state.pop("head.bias")}
    if distilled:
        heads = {f"cls_{name}": array for name, array in heads.items()}
        heads["distillation_classifier.weight"] = state.pop("head_dist.weight")
        heads["distillation_classifier.bias"] = state.pop("head_dist.bias")
        heads["deit.embeddings.distillation_token"] = state.pop("dist_token")
    out = {}
    for name, array in state.items():
        names = [n.replace("vit.", f"{prefix}.", 1) for n in huggingface_names(f"backbone.{name}")]
        out.update(zip(names, np.split(array, len(names)), strict=True))
    return out | heads


def folder(path: Path, settings: dict, state: dict, **others: dict) -> Path:
    """Writes a model folder as on the hub: config.json, model.safetensors, and `others` as further JSON files."""
    path.mkdir(parents=True)
    for name, values in {"config": settings, **others}.items():
        (path / f"{name}.json").write_text(json.dumps(values))
    write(path / "model.safetensors", state)
    return path


def in_hub_cache(cache: Path, name: str, source: Path, commit: str = "0" * 40, ref: str = "main") -> Path:
    """Copies a folder into a cache of the Hugging Face hub, in the layout of `huggingface_hub`."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for part in (snapshot, repository / "blobs", repository / "refs"):
        part.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob.name))
    (repository / "refs" / ref).write_text(commit)
    return snapshot


def huggingface_folder(path: Path, config: YolosConfig = TINY, **changes) -> Path:
    """Writes a Hugging Face folder; `changes` are applied to its config.json (None removes an entry)."""
    path.mkdir()
    values = write_config(config, None) | changes
    (path / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    save_file(to_huggingface(random_params(config), config), path / "model.safetensors")
    return path


def listed(name: str) -> dict[str, tuple[str, dict[str, tuple[int, ...]]]]:
    """{variant: (header line, {tensor name: shape})} from a file of tensor names in the reference pack."""
    out: dict = {}
    for line in pack(name).read_text().splitlines():
        if line.startswith("# variant "):
            out[line.split()[2].rstrip(":")] = line, {}
        elif line and not line.startswith("#"):
            tensor, shape = line.split("\t")
            list(out.values())[-1][1][tensor] = tuple(int(n) for n in re.findall(r"\d+", shape))
    return out


def write(path: Path, state: dict) -> Path:
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path)
    return path


def from_vit(state: dict, config: YolosConfig = TINY, seed: int = 0) -> tuple[dict, Report]:
    """The parameters and the report of a detector that starts from a ViT's state dict."""
    return from_deit(find_backbone(state, "x"), config, seed)


def assert_bit_equal(first, second) -> None:
    """Checks that two nested dicts of float32 arrays are bitwise equal."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for (where, a), b in zip(jax.tree.leaves_with_path(first), jax.tree.leaves(second), strict=True):
        name = jax.tree_util.keystr(where)
        assert a.dtype == b.dtype == np.float32, name
        assert a.shape == b.shape, name
        assert a.tobytes() == b.tobytes(), name
