"""A folder for transformers: weights, settings, image processor, model card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.numpy import save_file

from yolos_jax.errors import InputError, check_empty
from yolos_jax.images.sequence import default_max_side
from yolos_jax.model.config import YolosConfig
from yolos_jax.weights.card import Facts, model_card
from yolos_jax.weights.huggingface import CATEGORY_IDS, to_huggingface, write_config
from yolos_jax.weights.processor import SHORT_SIDE, Sizes, write_processor


def export_huggingface(
    params: Mapping,
    config: YolosConfig,
    label_names: Mapping[int, str] | None,
    out_dir: str | Path,
    category_ids: Sequence[int] | None = None,
    sizes: Sizes | None = None,
    facts: Facts | None = None,
) -> None:
    """Writes a folder that transformers loads, model and image processor.

    Args:
      params, config: our parameters and their model; both position grids must be equal.
      label_names: names by class id, or None.
      out_dir: a new or empty folder.
      category_ids: the data set's category id of every label, where they differ.
      sizes: what images are resized to; 800 and 1333 pixels by default.
      facts: the weights' origin and their measured numbers, for the model card.

    Raises:
      InputError: the folder is in use or cannot be written, or the model cannot be exported.
    """
    path = Path(out_dir)
    values = write_config(config, label_names)
    if category_ids is not None:
        values[CATEGORY_IDS] = list(category_ids)
    sizes = sizes or Sizes(SHORT_SIDE, default_max_side(SHORT_SIDE))
    card = model_card(config, values["id2label"], sizes, facts or Facts())
    try:
        check_empty(path)
        state = to_huggingface(params, config)
        path.mkdir(parents=True, exist_ok=True)
        # transformers refuses files without this mark of the tensors' layout
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
        for name, content in (("config", values), ("preprocessor_config", write_processor(sizes))):
            (path / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (path / "README.md").write_text(card, encoding="utf-8")
        # safetensors may leave its file readable to its owner only
        (path / "model.safetensors").chmod((path / "config.json").stat().st_mode)
    except OSError as error:
        raise InputError(f"the Hugging Face folder {path} could not be written ({error}).") from error
