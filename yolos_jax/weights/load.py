"""Foreign weights of any kind -> our parameters."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from yolos_jax.errors import InputError
from yolos_jax.images.sequence import ceil_div
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.weights.backbone import find_backbone
from yolos_jax.weights.deit import config_of_deit, from_backbone
from yolos_jax.weights.huggingface import CLASSIFIER, from_huggingface, read_category_ids, read_config
from yolos_jax.weights.processor import Sizes, read_processor
from yolos_jax.weights.reference import config_of_reference, from_reference
from yolos_jax.weights.report import Report
from yolos_jax.weights.source import Source, read_source

# The last bias of the class head, by the kind of source: one number for each class and one for "no object".
LAST_BIAS = {"reference": "class_embed.layers.2.bias", "huggingface": CLASSIFIER.replace("weight", "bias")}


class Loaded(NamedTuple):
    """What there is to know of foreign weights.

    Attributes:
      config: the model.
      params: nested dict of numpy float32 arrays.
      label_names: names by class id, if the source has them.
      report: what became of every tensor.
      category_ids: the data set's category id of every label, where they differ and the source says so.
      sizes: what images are resized to, if the source says so.
    """

    config: YolosConfig
    params: dict
    label_names: dict[int, str] | None
    report: Report
    category_ids: tuple[int, ...] | None = None
    sizes: Sizes | None = None

    @property
    def max_side(self) -> int:
        """Longest side in patches for which the model needs room (`Compute.max_side`); the sizes may ask for more."""
        return max(Compute.max_side, ceil_div(max(self.sizes or (0,)), self.config.patch_size))

    @property
    def extra(self) -> dict[str, Any]:
        """What a checkpoint of them is to remember (`Meta.extra`)."""
        origin: dict[str, Any] = {"converted_from": self.report.path}
        return origin if self.sizes is None else origin | {"processor": self.sizes._asdict()}


def load_weights(
    path: str | Path,
    config: YolosConfig | None = None,
    seed: int = 0,
    any_classes: bool = False,
    processor: bool = True,
) -> Loaded:
    """Our parameters from foreign weights, and whatever else the source says.

    Args:
      path: a `.safetensors` or `.pth` file, a Hugging Face folder, or a name on the hub.
      config: the model wanted; everything is checked against it. None reads it
        from `config.json` (Hugging Face) or finds the variant whose shapes
        these are.
      seed: of what a classifier or self-supervised ViT does not have.
      any_classes: a detector may have another number of classes than `config`;
        the config returned then has the source's.
      processor: read the source's image processor, too; it must be one that we honour.

    Raises:
      InputError: unreadable, not YOLOS and no ViT, or another model than `config`.
    """
    return convert(read_source(path), config, seed, any_classes, processor)


def load_detector(path: str | Path) -> Loaded:
    """`load_weights` of weights that can detect: a ViT to start training from is an `InputError`."""
    source = read_source(path)
    if source.kind == "deit":
        raise InputError(
            f"{source.name} is a ViT to start training from, not a detector; give it to convert.py or --config.init."
        )
    return convert(source)


def convert(
    source: Source,
    config: YolosConfig | None = None,
    seed: int = 0,
    any_classes: bool = False,
    processor: bool = True,
) -> Loaded:
    """See `load_weights`."""
    what, names, ids, sizes = source.name, None, None, None
    if any_classes and config is not None and source.kind in LAST_BIAS:
        bias = source.state.get(LAST_BIAS[source.kind])
        config = config if bias is None else with_classes(config, bias.size - 1)
    if source.kind == "deit":
        backbone = find_backbone(source.state, what)
        config = config or config_of_deit(backbone.state, what)
        params, report = from_backbone(backbone, config, seed, what)
    else:
        if source.kind == "reference":
            config = config or config_of_reference(source.state, what)
            params = from_reference(source.state, config, what)
        else:
            config, names = _huggingface_config(source, config)
            params = from_huggingface(source.state, config, what)
            ids = read_category_ids(source.hf_config or {}, config.num_classes, f"the config.json of {what}")
        report = Report(source.kind, tuple(source.state))
    report = dataclasses.replace(report, cast=source.cast, path=what, notes=source.notes + report.notes)
    if processor and source.processor is not None:
        sizes = read_processor(source.processor, f"the preprocessor_config.json of {what}")
    return Loaded(config, params, names, report, ids, sizes)


def with_classes(config: YolosConfig, num_classes: int) -> YolosConfig:
    """The same model for another number of classes."""
    return dataclasses.replace(config, num_classes=max(num_classes, 1))


def _huggingface_config(source: Source, wanted: YolosConfig | None) -> tuple[YolosConfig, dict[int, str] | None]:
    """The config and label names that belong to Hugging Face weights, checked against the wanted config."""
    if source.hf_config is None:
        if wanted is None:
            raise InputError(
                f"{source.path} has Hugging Face names but no config.json beside it; give the folder, or pass "
                "--variant or --config."
            )
        return wanted, None
    where = f"the config.json of {source.name}"
    found, names = read_config(source.hf_config, where)
    classifier = source.state.get(CLASSIFIER)
    if classifier is not None and classifier.shape[:1] != (found.num_classes + 1,):
        raise InputError(
            f"{where} names {found.num_classes} labels, which makes {found.num_classes + 1} outputs with "
            f'"no object", but {CLASSIFIER} has shape {list(classifier.shape)}.'
        )
    if wanted is None:
        return found, names
    differences = wanted.differences(found)
    if differences:
        raise InputError(
            f"the wanted model is not the one of {where}: {'; '.join(differences)}. "
            "Set them alike, or leave out --variant and --config to take the folder's."
        )
    return dataclasses.replace(wanted, layer_norm_eps=found.layer_norm_eps), names
