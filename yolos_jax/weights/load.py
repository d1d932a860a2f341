"""Foreign weights of any kind -> our parameters."""

import dataclasses
from pathlib import Path

from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.weights.deit import config_of_deit, from_deit
from yolos_jax.weights.huggingface import CLASSIFIER, from_huggingface, read_config
from yolos_jax.weights.reference import config_of_reference, from_reference
from yolos_jax.weights.report import Report
from yolos_jax.weights.source import Source, read_source

# The last bias of the class head, by the kind of source: one number for each class and one for "no object".
LAST_BIAS = {"reference": "class_embed.layers.2.bias", "huggingface": CLASSIFIER.replace("weight", "bias")}


def load_weights(
    path: str | Path, config: YolosConfig | None = None, seed: int = 0, any_classes: bool = False
) -> tuple[YolosConfig, dict, dict[int, str] | None, Report]:
    """Our parameters from foreign weights.

    Args:
      path: a `.safetensors` or `.pth` file, or a Hugging Face folder.
      config: the model wanted; everything is checked against it. None reads it
        from `config.json` (Hugging Face) or finds the variant whose shapes
        these are.
      seed: of what a DeiT classifier does not have.
      any_classes: a detector may have another number of classes than `config`;
        the config returned then has the source's.

    Returns:
      (config, nested dict of numpy float32 arrays, label names by class id if
      the source has them, what became of every tensor)

    Raises:
      InputError: unreadable, not YOLOS or DeiT, or another model than `config`.
    """
    source = read_source(path)
    what, names = str(source.path), None
    if any_classes and config is not None and source.kind in LAST_BIAS:
        bias = source.state.get(LAST_BIAS[source.kind])
        config = config if bias is None else with_classes(config, bias.size - 1)
    if source.kind == "deit":
        config = config or config_of_deit(source.state, what)
        params, report = from_deit(source.state, config, seed, what)
    else:
        if source.kind == "reference":
            config = config or config_of_reference(source.state, what)
            params = from_reference(source.state, config, what)
        else:
            config, names = _huggingface_config(source, config)
            params = from_huggingface(source.state, config, what)
        report = Report(source.kind, tuple(source.state))
    return config, params, names, dataclasses.replace(report, cast=source.cast, path=what)


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
    where = f"the config.json of {source.path}"
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
