"""Our image classifiers out to others: timm's names, and a folder for transformers' ViT or DeiT."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from yolos_jax.errors import InputError, check_empty
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights.card import Facts, measured
from yolos_jax.weights.names import huggingface_names
from yolos_jax.weights.processor import MEAN, SCALE, STD

TIMM_FILE = "timm.safetensors"
_HEADS = {"head": "classifier"}  # timm's names of heads, and transformers'
_BOTH_HEADS = {"head": "cls_classifier", "head_dist": "distillation_classifier"}
_BICUBIC = 3  # Pillow's number
_CARD = """---
library_name: transformers
pipeline_tag: image-classification
tags:
- vision
- image-classification
- yolos-jax
---

# {title}

An image classifier ({kind}), pre-trained by yolos-jax for {step} steps to start a YOLOS detector from.

| setting | value |
|---|---|
| width, depth, heads | {config.width}, {config.depth}, {config.heads} |
| classes | {config.num_classes} |
| images | {config.image_size} pixels, bicubic, ImageNet's mean and std |

{measured}

`model.safetensors` has transformers' names, and `timm.safetensors` those of timm's {timm}.
"""


def to_timm(params: Mapping, config: ClassifierConfig) -> dict[str, np.ndarray]:
    """The state dict (contiguous numpy float32) of timm's `VisionTransformer`, or `VisionTransformerDistilled`.

    Transpositions, slices and stacks, never arithmetic. `InputError` if the parameters do not fit `config`.
    """
    side, out = config.patch_size, {}
    try:
        tree = jax.tree.map(np.asarray, dict(params))
        blocks = {str(i): jax.tree.map(lambda x, i=i: x[i], tree["blocks"]) for i in range(config.depth - 1)}
        tree["blocks"] = blocks | {str(config.depth - 1): tree.pop("last_block")}
        positions = tree.pop("pos_embed")
        first = [positions[name] for name in ("cls", "dist") if name in positions]
        patches = positions["grid"].reshape(math.prod(config.grid), config.width)
        out["pos_embed"] = np.concatenate([*first, patches])[None]
        for name, array in flatten_dict(tree, sep=".").items():
            if name == "patch_embed.kernel":
                array = array.reshape(side, side, 3, config.width).transpose(3, 2, 0, 1)
            elif name.endswith("_token"):
                array = array[None]
            name = name.replace("patch_embed.", "patch_embed.proj.").replace(".scale", ".weight")
            is_linear = name.endswith(".kernel") and array.ndim == 2
            out[name.replace(".kernel", ".weight")] = array.T if is_linear else array
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"the parameters do not belong to the given model config ({error!r}).") from error
    return {name: np.ascontiguousarray(array, np.float32) for name, array in out.items()}


def to_transformers(params: Mapping, config: ClassifierConfig) -> dict[str, np.ndarray]:
    """The state dict of transformers' `ViTForImageClassification`, or `DeiTForImageClassificationWithTeacher`."""
    prefix, heads = ("deit.", _BOTH_HEADS) if config.distilled else ("vit.", _HEADS)
    out: dict[str, np.ndarray] = {}
    for name, array in to_timm(params, config).items():
        part, _, rest = name.partition(".")
        if part in heads:
            out[f"{heads[part]}.{rest}"] = array
        elif part == "dist_token":
            out[f"{prefix}embeddings.distillation_token"] = array
        else:
            names = [theirs.replace("vit.", prefix, 1) for theirs in huggingface_names(f"backbone.{name}")]
            parts = np.split(array, len(names)) if len(names) > 1 else [array]
            out.update(zip(names, map(np.ascontiguousarray, parts), strict=True))
    return out


def classifier_settings(config: ClassifierConfig, label_names: Mapping[int, str]) -> dict[str, Any]:
    """The `config.json` for transformers."""
    labels = [label_names.get(i, f"LABEL_{i}") for i in range(config.num_classes)]
    architecture = "DeiTForImageClassificationWithTeacher" if config.distilled else "ViTForImageClassification"
    return {
        "architectures": [architecture],
        "model_type": "deit" if config.distilled else "vit",
        "dtype": "float32",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": config.layer_norm_eps,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "num_channels": 3,
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
    }


def classifier_processor(config: ClassifierConfig, crop_share: float) -> dict[str, Any]:
    """The `preprocessor_config.json`: the short side resized, the centre cut out, normalised."""
    size = config.image_size
    return {
        "image_processor_type": "BitImageProcessor",
        **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"), True),
        "size": {"shortest_edge": max(size, math.floor(size / crop_share))},
        "crop_size": {"height": size, "width": size},
        "resample": _BICUBIC,
        "rescale_factor": SCALE,
        "image_mean": MEAN,
        "image_std": STD,
    }


def export_classifier(
    params: Mapping, meta: Meta[ClassifierConfig], out_dir: str | Path, facts: Facts | None = None
) -> None:
    """Writes a new folder that transformers loads, with timm's names in a second file of weights.

    `facts` are for the model card: what has been measured with the weights.

    `InputError` if the folder is in use or cannot be written.
    """
    path, config = Path(out_dir), meta.model
    share = meta.extra.get("config", {}).get("data", {}).get("crop_share", 0.875)
    card = _CARD.format(
        title="DeiT" if config.distilled else "ViT", config=config, step=meta.step,
        kind="DeiT with a distillation token" if config.distilled else "a plain ViT",
        timm="VisionTransformerDistilled" if config.distilled else "VisionTransformer",
        measured=measured(facts or Facts(), "Shares of images whose class is the first, or among the first five,"),
    )  # fmt: skip
    try:
        check_empty(path)
        states = {"model.safetensors": to_transformers(params, config), TIMM_FILE: to_timm(params, config)}
        path.mkdir(parents=True, exist_ok=True)
        for name, state in states.items():
            save_file(state, path / name, metadata={"format": "pt"})
        contents = {"config": classifier_settings(config, meta.label_names)}
        contents["preprocessor_config"] = classifier_processor(config, share)
        for name, content in contents.items():
            (path / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (path / "README.md").write_text(card, encoding="utf-8")
        for name in states:  # safetensors may leave its files readable to their owner only
            (path / name).chmod((path / "config.json").stat().st_mode)
    except OSError as error:
        raise InputError(f"the Hugging Face folder {path} could not be written ({error}).") from error
