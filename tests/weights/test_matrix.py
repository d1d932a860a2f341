"""Loads each variant in each format, saves a checkpoint, exports it and loads it again; parameters must be bit-equal.

Micro variants have the structure of the paper's variants (positions, heads, depth) at a very small width.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_weights import (
    MICRO,
    assert_bit_equal,
    bare_vit,
    deit_state,
    dino_teacher,
    folder,
    huggingface_folder,
    in_hub_cache,
    mae_state,
    moco_state,
    random_params,
    reference_state,
    transformers_vit,
    write,
)

from yolos_jax.model.config import VARIANTS
from yolos_jax.model.yolos import build
from yolos_jax.training import checkpoint_files
from yolos_jax.weights import checkpoints, export_huggingface, load_weights
from yolos_jax.weights.image_processor import Sizes, write_processor

SIZES = Sizes(96, 160)
COMMIT = "c0ffee" + "0" * 34
TIMM = {"architecture": "deit_small_patch16_224", "num_classes": 7, "pretrained_cfg": {"tag": "fb_in1k"}}


def test_micro_variants_match_structure():
    for name, micro in MICRO.items():
        full = VARIANTS[name]
        assert (micro.heads, micro.mid_pe_size is None) == (full.heads, full.mid_pe_size is None)
        assert (micro.init_grid == micro.mid_grid) == (full.init_grid == full.mid_grid)
        assert (micro.depth > MICRO["s"].depth) == (full.depth > VARIANTS["s"].depth)
        sizes = [config.width // config.heads for config in (micro, full)]
        assert len({size & (size - 1) != 0 for size in sizes}) == 1


def sharded(path, config):
    made = huggingface_folder(path, config)
    state = load_file(made / "model.safetensors")
    (made / "model.safetensors").unlink()
    where = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(sorted(state))}
    for shard in set(where.values()):
        write(made / shard, {name: array for name, array in state.items() if where[name] == shard})
    (made / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return made


def old_names(path, config):
    made = huggingface_folder(path, config)
    state = load_file(made / "model.safetensors")
    return folder(
        path.with_name("old"),
        json.loads((made / "config.json").read_text()),
        {name.replace("encoder.interpolation.", "encoder."): array for name, array in state.items()},
        preprocessor_config=write_processor(SIZES),
    )


def torch_bin(path, config, torch):
    made = huggingface_folder(path, config)
    state = load_file(made / "model.safetensors")
    (made / "model.safetensors").unlink()
    torch.save(as_torch(state, torch), made / "pytorch_model.bin")
    return made


def as_torch(state, torch):
    return {name: torch.from_numpy(array.copy()) for name, array in state.items()}


def pth(path, config, torch, zipped):
    """Saves a checkpoint in the format of the reference, with the weights, the optimizer state and the command line."""
    content = {"model": as_torch(reference_state(config), torch), "optimizer": {"state": {}, "param_groups": []}}
    content |= {"epoch": 149, "args": argparse.Namespace(backbone_name="tiny", lr=1e-4)}
    torch.save(content, path / "yolos.pth", _use_new_zipfile_serialization=zipped)
    return path / "yolos.pth"


def entry(path, torch, name, **content):
    """Saves a training state in the format of DeiT and the self-supervised methods."""
    states = {key: as_torch(state, torch) for key, state in content.items()}
    torch.save(states | {"epoch": 100, "args": argparse.Namespace(arch="vit_small")}, path / name)
    return path / name


def dino_full(path, config, torch):
    teacher = dino_teacher(config)
    student = {f"module.{name}": array + 1 for name, array in teacher.items()}
    return entry(path, torch, "dino_deitsmall16_pretrain_full_checkpoint.pth", student=student, teacher=teacher)


def from_cache(path, config):
    made = huggingface_folder(path / "made", config)
    in_hub_cache(path / "cache", "hustvl/yolos-micro", made, COMMIT)
    return "hustvl/yolos-micro"


def vit_settings(kind, config):
    return {"model_type": kind, "num_attention_heads": config.heads}


YOLOS = {
    "reference": lambda path, c: write(path / "yolos.safetensors", reference_state(c)),
    "hf": lambda path, c: huggingface_folder(path / "hf", c),
    "hf sharded": lambda path, c: sharded(path / "hf", c),
    "hf old names": lambda path, c: old_names(path / "hf", c),
    "hub id": from_cache,
}
VITS = {
    "deit": lambda path, c: write(path / "deit.safetensors", deit_state(c)),
    "deit distilled": lambda path, c: write(path / "deit.safetensors", deit_state(c, distilled=True)),
    "dino": lambda path, c: write(path / "dino.safetensors", bare_vit(c, side=5)),
    "dino teacher": lambda path, c: write(path / "dino.safetensors", dino_teacher(c)),
    "moco v3": lambda path, c: write(path / "moco.safetensors", moco_state(c)),
    "mae": lambda path, c: write(path / "mae.safetensors", mae_state(c)),
    "timm folder": lambda path, c: folder(path / "timm", TIMM, deit_state(c)),
    "vit folder": lambda path, c: folder(path / "vit", vit_settings("vit", c), transformers_vit(c)),
    "deit folder": lambda path, c: folder(path / "deit", vit_settings("deit", c), transformers_vit(c, True)),
}
TORCH_YOLOS = {
    "pth zip": lambda path, c, torch: pth(path, c, torch, True),
    "pth legacy": lambda path, c, torch: pth(path, c, torch, False),
    "hf bin": lambda path, c, torch: torch_bin(path / "hf", c, torch),
}
TORCH_VITS = {
    "dino full": dino_full,
    "moco v3 pth.tar": lambda path, c, torch: entry(path, torch, "vit-s-300ep.pth.tar", state_dict=moco_state(c)),
    "mae pth": lambda path, c, torch: entry(path, torch, "mae_pretrain_vit_base.pth", model=mae_state(c)),
    "deit pth": lambda path, c, torch: entry(path, torch, "deit_small_patch16_224.pth", model=deit_state(c)),
}
EVERY = pytest.mark.parametrize("variant", list(MICRO))


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Replaces the paper's variants with micro variants, and uses only the cache of the hub."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for module in ("reference", "deit"):
        monkeypatch.setattr(f"yolos_jax.weights.{module}.VARIANTS", MICRO)


def there_and_back(source: str | Path, config, params, tmp_path: Path) -> None:
    """Converts the source to a yolos-jax checkpoint, then to a transformers folder, and loads the folder again."""
    found = load_weights(source)
    assert found.config == config
    assert_bit_equal(found.params, params)
    names, ids = {0: "cat", 3: "dog"}, (7, 1, 90, 12)
    meta = checkpoint_files.Meta(found.config, names, 0, {"processor": SIZES._asdict()}, ids)
    checkpoints.save(tmp_path / "ours", 0, found.params, meta)
    ours, kept = checkpoints.load_detector(tmp_path / "ours")
    assert kept == meta
    assert_bit_equal(ours, params)
    export_huggingface(ours, kept.model, kept.label_names, tmp_path / "theirs", kept.category_ids, SIZES)
    back = load_weights(tmp_path / "theirs")
    assert_bit_equal(back.params, params)
    assert (back.label_names, back.category_ids, back.sizes) == (names, ids, SIZES)
    assert not config.differences(back.config)


def vit_params(config, found):
    """Returns the expected parameters for a ViT: its tensors, and all other parameters initialised from the seed."""
    own, fresh = random_params(config), build(config, 0)[1]
    positions = found.params["pos_embed"]
    return (
        fresh
        | {name: own[name] for name in ("patch_embed", "cls_token", "blocks", "last_block", "norm")}
        | {"pos_embed": {**positions, "det": fresh["pos_embed"]["det"]}}
    )


def check_positions(params, state):
    """Checks the position of the class token, and bounds the values of the grid (bicubic interpolation overshoots)."""
    name = next(n for n in state if n.endswith(("pos_embed", "position_embeddings")) and "momentum" not in n)
    given, distilled = state[name][0], any("dist" in n for n in state)
    assert params["pos_embed"]["cls"][0].tobytes() == given[int(distilled)].tobytes()
    assert 0 < np.abs(params["pos_embed"]["grid"]).max() <= 2.5 * np.abs(given).max()


@EVERY
@pytest.mark.parametrize("source", list(YOLOS))
def test_yolos(source, variant, tmp_path):
    config = MICRO[variant]
    there_and_back(YOLOS[source](tmp_path, config), config, random_params(config), tmp_path)


@EVERY
@pytest.mark.parametrize("source", list(VITS))
def test_vit(source, variant, tmp_path):
    config = MICRO[variant]
    path = VITS[source](tmp_path, config)
    found = load_weights(path)
    check_positions(found.params, load_file(path / "model.safetensors" if path.is_dir() else path))
    there_and_back(path, config, vit_params(config, found), tmp_path)


@pytest.mark.parity
@EVERY
@pytest.mark.parametrize("source", list(TORCH_YOLOS))
def test_yolos_from_torch(source, variant, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
    config = MICRO[variant]
    there_and_back(TORCH_YOLOS[source](tmp_path, config, torch), config, random_params(config), tmp_path)


@pytest.mark.parity
@EVERY
@pytest.mark.parametrize("source", list(TORCH_VITS))
def test_vit_from_torch(source, variant, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
    config = MICRO[variant]
    path = TORCH_VITS[source](tmp_path, config, torch)
    there_and_back(path, config, vit_params(config, load_weights(path)), tmp_path)
