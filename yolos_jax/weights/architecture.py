"""Infers the architecture of starting weights from a config, a file header or tensor shapes, without reading values."""

from collections.abc import Mapping
from typing import Any

from yolos_jax.address import copied
from yolos_jax.errors import InputError
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import VARIANTS, YolosConfig
from yolos_jax.training import checkpoint_files
from yolos_jax.weights import checkpoints
from yolos_jax.weights.backbone import find_backbone
from yolos_jax.weights.deit import refuse_other_parts
from yolos_jax.weights.huggingface_config import ratio_of
from yolos_jax.weights.load import config_of_huggingface
from yolos_jax.weights.published import TITLES, variant_name
from yolos_jax.weights.reference import config_of_reference
from yolos_jax.weights.source import ForeignWeights, read_source
from yolos_jax.weights.vit_settings import read_vit

_FROM_VIT = ("width", "depth", "heads", "mlp_ratio", "patch_size")  # detector settings that a ViT determines
_EPSILON = "layer_norm_eps"  # Hugging Face and the reference use different values for the same weights


def architecture_of(init: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the architecture settings of a detector that starts from the given weights, without `num_classes`.

    Detector weights determine all settings. ViT weights determine width, depth, heads, MLP ratio and patch size; the
    other settings are taken from the paper's variant with the same width and depth, if there is one.

    Args:
      init: location of the weights, see `starting_params`.
      stated: settings in the recipe; they must not contradict the weights, and override the paper's variant.

    Raises:
      InputError: the weights cannot be used, they contradict `stated`, or the number of heads is unknown.
    """
    fixed, usual = _read(init)
    wrong = [name for name, value in fixed.items() if name in stated and stated[name] != value]
    if wrong:
        listed = "; ".join(f"model.{name} is {stated[name]} instead of {fixed[name]}" for name in wrong)
        raise InputError(
            f"the recipe does not match the architecture of {init}: {listed}. Remove these settings to use the "
            "values of the weights, or use other weights."
        )
    found = usual | dict(stated) | fixed
    if "heads" not in found:
        raise InputError(
            f"the number of attention heads cannot be inferred from {init}, and no variant in the paper has width "
            f"{fixed['width']} and {fixed['depth']} blocks; set --config.model.heads."
        )
    return found


def title_of(model: YolosConfig) -> str:
    """Returns a title for an architecture: the name of its variant, or a list of its sizes."""
    name = variant_name(model)
    sizes = f"{model.depth} blocks of width {model.width}, {model.heads} heads, patch size {model.patch_size}"
    return TITLES[name] if name else sizes


def _read(init: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the settings that the weights determine, and defaults for the others."""
    if checkpoint_files.steps(copied(init)):
        model: Any = checkpoints.newest_meta(init).model
    else:
        source = read_source(init, shapes=True)
        if source.kind == "deit":
            return _of_vit(source)
        if source.kind == "reference":
            model = config_of_reference(source.state, source.name)
        else:
            model, _ = config_of_huggingface(source, None)
    found = model.to_dict()
    if isinstance(model, ClassifierConfig):
        return _with_variant({name: found[name] for name in _FROM_VIT}, {_EPSILON: found[_EPSILON]})
    del found["num_classes"]
    return found, {_EPSILON: found.pop(_EPSILON)}


def _of_vit(source: ForeignWeights) -> tuple[dict[str, Any], dict[str, Any]]:
    """Like `_read`, but for the tensors and config of a ViT. Tensor shapes do not determine the number of heads."""
    backbone = find_backbone(source.state, source.name)
    refuse_other_parts(backbone)
    width = backbone.width
    said = read_vit(source.hf_config, source.processor, width, source.name)
    fixed: dict[str, Any] = {"width": width, "depth": backbone.depth}
    fixed["patch_size"] = backbone.state["patch_embed.proj.weight"].shape[-1]
    inner = backbone.state.get("blocks.0.mlp.fc1.weight")
    if inner is not None:  # `from_deit` reports missing tensors
        fixed["mlp_ratio"] = ratio_of(width, len(inner))
    if said.heads is not None:
        fixed["heads"] = said.heads
    usual = {} if said.epsilon is None else {_EPSILON: said.epsilon}
    return _with_variant(fixed, usual)


def _with_variant(fixed: dict[str, Any], usual: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Adds the settings that a ViT does not determine, taken from the variant of the same size."""
    for model in VARIANTS.values():
        known = model.to_dict()
        if all(known[name] == fixed[name] for name in ("width", "depth", "heads") if name in fixed):
            del known["num_classes"]
            return fixed, {name: value for name, value in (known | usual).items() if name not in fixed}
    return fixed, usual
