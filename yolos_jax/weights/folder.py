"""Exports a folder for transformers: weights, config, image processor and model card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from yolos_jax.errors import NO_ROOM, InputError, check_empty
from yolos_jax.images.sequence import default_max_side
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import YolosConfig
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights.huggingface import to_huggingface, to_transformers_vit
from yolos_jax.weights.huggingface_config import CATEGORY_IDS, write_classifier_config, write_config
from yolos_jax.weights.image_processor import SHORT_SIDE, Sizes, write_classifier_processor, write_processor
from yolos_jax.weights.model_card import PLAIN, Presentation, Provenance, classifier_card, detector_card
from yolos_jax.weights.reference import to_timm

TIMM_FILE = "timm.safetensors"


def export_huggingface(
    params: Mapping,
    config: YolosConfig,
    label_names: Mapping[int, str] | None,
    out_dir: str | Path,
    category_ids: Sequence[int] | None = None,
    sizes: Sizes | None = None,
    provenance: Provenance | None = None,
    presentation: Presentation = PLAIN,
) -> None:
    """Writes a folder from which transformers can load the model and its image processor.

    Args:
      params, config: our parameters and their model config; its two position grids must be equal.
      label_names: class names keyed by id, or None.
      out_dir: a new or empty folder.
      category_ids: the data set's category id for each label, if different from the labels.
      sizes: sizes that images are resized to; by default, a short side of 800 and a long side of at most 1333 pixels.
      provenance: origin and metrics of the weights, for the model card.
      presentation: license and images of the model card, and settings of its example code.

    Raises:
      InputError: the folder is not empty or cannot be written to, or the model cannot be exported.
    """
    settings = write_config(config, label_names)
    if category_ids is not None:
        settings[CATEGORY_IDS] = list(category_ids)
    sizes = sizes or Sizes(SHORT_SIDE, default_max_side(SHORT_SIDE))
    card = detector_card(config, settings["id2label"], sizes, provenance or Provenance(), presentation)
    states = {"model.safetensors": to_huggingface(params, config)}
    others = {"README.md": card.encode(), **presentation.pictures}
    _write(Path(out_dir), states, settings, write_processor(sizes), others)


def export_classifier(
    params: Mapping, meta: Meta[ClassifierConfig], out_dir: str | Path,
    provenance: Provenance | None = None, presentation: Presentation = PLAIN,
) -> None:  # fmt: skip
    """Like `export_huggingface`, but for one of our classifiers; another file contains the weights with timm names."""
    config = meta.model
    states = {"model.safetensors": to_transformers_vit(params, config), TIMM_FILE: to_timm(params, config)}
    settings = write_classifier_config(config, meta.label_names)
    crop_share = meta.extra.get("config", {}).get("data", {}).get("crop_share", 0.875)
    processor = write_classifier_processor(config.image_size, crop_share)
    card = classifier_card(config, provenance or Provenance(), presentation)
    others = {"README.md": card.encode(), **presentation.pictures}
    _write(Path(out_dir), states, settings, processor, others)


def _write(
    path: Path, states: Mapping[str, dict[str, np.ndarray]], settings: dict, processor: dict, others: dict[str, bytes]
) -> None:
    """Writes `states` and `others` (both keyed by file name) and the two JSON files of a Hugging Face folder."""
    try:
        check_empty(path)
        path.mkdir(parents=True, exist_ok=True)
        for name, state in states.items():
            # transformers rejects files without this metadata
            save_file(state, path / name, metadata={"format": "pt"})
        for name, content in (("config", settings), ("preprocessor_config", processor)):
            (path / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for name, data in others.items():
            (path / name).write_bytes(data)
        for name in states:  # safetensors may create files that only their owner can read
            (path / name).chmod((path / "config.json").stat().st_mode)
    except (OSError, SafetensorError) as error:
        raise InputError(f"the Hugging Face folder {path} could not be written ({error}); {NO_ROOM}.") from error
