"""Loads third-party weights in any supported format as our parameters."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from yolos_jax.errors import InputError
from yolos_jax.images.sequence import ceil_div
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights.backbone import find_backbone
from yolos_jax.weights.deit import config_of_deit, from_deit
from yolos_jax.weights.huggingface import CLASS_HEAD, from_huggingface
from yolos_jax.weights.huggingface_config import read_category_ids, read_config
from yolos_jax.weights.image_processor import MEAN, STD, Sizes, read_processor
from yolos_jax.weights.published import with_classes
from yolos_jax.weights.reference import LAST_BIAS, config_of_reference, from_reference
from yolos_jax.weights.report import Report
from yolos_jax.weights.source import ForeignWeights, read_source
from yolos_jax.weights.vit_settings import check_vit, read_pixels, read_vit, with_pixels

# Name of the class head's last bias in each kind of source. It has one value per class and one for "no object".
_LAST_BIAS = {"reference": LAST_BIAS, "huggingface": CLASS_HEAD.replace("weight", "bias")}

Names = dict[int, str]


class LoadedWeights(NamedTuple):
    """Third-party weights converted to our parameters, and other information from the source."""

    config: YolosConfig
    params: dict  # nested dict of numpy float32 arrays
    label_names: Names | None  # class names keyed by id, if the source has them
    report: Report
    category_ids: tuple[int, ...] | None = None  # the data set's category id for each label; None if they are equal
    sizes: Sizes | None = None  # sizes that images are resized to, if the source has them

    def meta(self, default_names: Names) -> Meta[YolosConfig]:
        """Returns the metadata for a checkpoint; `default_names` are used if the source has no label names."""
        names = default_names if self.label_names is None else self.label_names
        extra: dict[str, Any] = {"converted_from": self.report.path}
        longest = Compute.max_side
        if self.sizes is not None:
            extra["processor"] = self.sizes._asdict()
            longest = max(longest, ceil_div(max(self.sizes), self.config.patch_size))
        return Meta(self.config, names, 0, extra, self.category_ids, longest)


def load_weights(
    path: str | Path,
    config: YolosConfig | None = None,
    seed: int = 0,
    any_classes: bool = False,
    processor: bool = True,
    detector: bool = False,
) -> LoadedWeights:
    """Loads third-party weights as our parameters.

    Args:
      path: a `.safetensors` or `.pth` file, a Hugging Face folder, or a name on the hub.
      config: the expected model, which the weights must match. If None, it is read from `config.json` (Hugging Face)
        or inferred from tensor shapes.
      seed: seed for initialising the parts that a classifier or self-supervised ViT lacks.
      any_classes: allow a detector with a different number of classes from `config`; the returned config then has
        the source's number of classes.
      processor: also read the image sizes of a detector's image processor, which must be supported. If False, or for
        a ViT, weights that were trained with a different pixel normalisation are converted to ours.
      detector: accept only the weights of a detector, not of a ViT.

    Raises:
      InputError: the weights are unreadable, are neither YOLOS nor a ViT, or do not match `config`.
    """
    source = read_source(path)
    what = source.name
    if detector and source.kind == "deit":
        raise InputError(
            f"{what} is a ViT, not a detector; convert it with yolos-convert, or train from it with --config.init."
        )
    bias = source.state.get(_LAST_BIAS.get(source.kind, ""))
    if any_classes and config is not None and bias is not None:
        config = with_classes(config, bias.size - 1)
    report = Report(source.kind, tuple(source.state))
    names = ids = sizes = pixels = None
    if source.kind == "reference":
        config = config or config_of_reference(source.state, what)
        params = from_reference(source.state, config, what)
    elif source.kind == "huggingface":
        config, names = config_of_huggingface(source, config)
        params = from_huggingface(source.state, config, what)
        ids = read_category_ids(source.hf_config or {}, config.num_classes, f"the config.json of {what}")
    else:
        backbone = find_backbone(source.state, what)
        config = config or config_of_deit(backbone)
        params, report = from_deit(backbone, config, seed)
        said = read_vit(source.hf_config, source.processor, backbone.width, what)
        check_vit(said, config, what)
        pixels = said.pixels
    if source.processor is not None and source.kind != "deit":
        if processor:
            sizes = read_processor(source.processor, f"the preprocessor_config.json of {what}")
        else:
            pixels = read_pixels(source.processor, what, MEAN, STD)
    params["patch_embed"], converted = with_pixels(params["patch_embed"], pixels)
    notes = (*source.notes, *report.notes, *converted)
    report = dataclasses.replace(report, cast=source.cast, path=what, notes=notes)
    return LoadedWeights(config, params, names, report, ids, sizes)


def config_of_huggingface(source: ForeignWeights, wanted: YolosConfig | None) -> tuple[YolosConfig, Names | None]:
    """Returns the config and label names of Hugging Face weights, checked against the expected config."""
    if source.hf_config is None:
        if wanted is None:
            raise InputError(
                f"{source.name} has Hugging Face tensor names but no config.json next to it; use its folder, or a "
                "--config that sets the architecture."
            )
        return wanted, None
    where = f"the config.json of {source.name}"
    found, names = read_config(source.hf_config, where)
    classifier, outputs = source.state.get(CLASS_HEAD), found.num_classes + 1
    if classifier is not None and classifier.shape[:1] != (outputs,):
        raise InputError(
            f"{where} has {found.num_classes} labels, so the class head must have {outputs} outputs including "
            f'"no object", but {CLASS_HEAD} has shape {list(classifier.shape)}.'
        )
    if wanted is None:
        return found, names
    differences = wanted.differences(found)
    if differences:
        raise InputError(
            f"the expected model differs from {where}: {'; '.join(differences)}. "
            "Choose a matching --config, or use the architecture of the weights (yolos-train --config "
            "finetune_custom; yolos-convert without --variant and --config)."
        )
    return dataclasses.replace(wanted, layer_norm_eps=found.layer_norm_eps), names
