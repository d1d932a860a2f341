"""Creates the parameters that training starts from."""

from collections.abc import Mapping

import jax
import numpy as np

from yolos_jax import weights
from yolos_jax.address import copied
from yolos_jax.datasets.category_names import known_names, listing, plain_name
from yolos_jax.errors import InputError
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.init import SCHEMES
from yolos_jax.model.yolos import build
from yolos_jax.training import checkpoint_files
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights import checkpoints
from yolos_jax.weights.backbone import find_backbone
from yolos_jax.weights.deit import from_deit
from yolos_jax.weights.reference import to_timm
from yolos_jax.weights.vit_settings import VitSettings, check_vit


def starting_params(
    model: YolosConfig, init: str, seed: int, label_names: Mapping[int, str] | None = None, by_name: bool = True
) -> dict:
    """Returns random parameters, parameters of one of our checkpoints (detector or classifier), or converted weights.

    If a detector has a different number of classes, everything is kept except the last layer of the class head, the
    only layer whose shape depends on that number.

    Args:
      model: the model to train.
      init: a scheme of `model.init`, or the location of weights (see `weights.load_weights`).
      seed: seed for initialising new parameters.
      label_names: names of the model's labels. If the weights have the same number of classes, the rows of the class
        head are matched by name; if no names match, the rows are initialised.
      by_name: if False, the order of the rows is kept.

    Raises:
      InputError: the weights are for another model, or they have the same number of classes but share only some names,
        so the correct matching of classes is ambiguous.
    """
    refuse_nothing_to_start_from(init)
    if init in SCHEMES:
        return build(model, seed, init)[1]
    if checkpoint_files.steps(copied(init)):
        params, meta = checkpoints.load_any(init)
        if isinstance(meta.model, ClassifierConfig):
            return _from_classifier(params, meta, model, init, seed)
        found, names = meta.model, meta.label_names
        checkpoints.check_model(init, weights.with_classes(found, model.num_classes).differences(model))
        print(f"starting from the checkpoint {init}, step {meta.step}")
    else:
        loaded = weights.load_weights(init, model, seed, any_classes=True, processor=False)
        found = loaded.config
        params = loaded.params
        names = loaded.label_names or {}
        print(loaded.report.summary())
    if found.num_classes != model.num_classes:
        params["class_head"]["fc3"] = _fresh_last_layer(model, seed)
        print(
            f"{init} has {found.num_classes} classes and the data has {model.num_classes}: the last layer of the "
            "class head is initialised, and everything else is kept."
        )
    elif by_name:
        _match_rows(params["class_head"]["fc3"], names, label_names or {}, init, _fresh_last_layer(model, seed))
    return jax.tree.map(np.asarray, params)


def refuse_nothing_to_start_from(init: str) -> None:
    """Raises `InputError` if a recipe requires starting weights but has none."""
    if not init:
        raise InputError(
            "the recipe requires starting weights; use --config.init=hustvl/yolos-small (or a folder), or "
            "--config.init=from_nothing to train from scratch."
        )


def _fresh_last_layer(model: YolosConfig, seed: int) -> dict:
    """Returns a randomly initialised last layer of the class head."""
    return build(model, seed)[1]["class_head"]["fc3"]


def _from_classifier(params: dict, meta: Meta, model: YolosConfig, init: str, seed: int) -> dict:
    """Returns a detector's parameters from one of our image classifiers, which is handled like any ViT."""
    found = find_backbone(to_timm(params, meta.model), f"the checkpoint {init}, step {meta.step}")
    started, report = from_deit(found, model, seed)
    check_vit(VitSettings(meta.model.heads, meta.model.layer_norm_eps), model, f"the classifier {init}")
    print(report.summary())
    return jax.tree.map(np.asarray, started)


def _match_rows(layer: dict, names: Mapping[int, str], wanted: Mapping[int, str], init: str, fresh: dict) -> None:
    """Matches the rows of the class head to labels by name; prints a note if any row moves or is initialised.

    Labels without a name, and "no object", keep their rows. Raises `InputError` if only some of the names match.
    """
    theirs = {i: plain_name(name) for i, name in known_names(names).items()}
    ours = {i: plain_name(name) for i, name in known_names(wanted).items()}
    if all(theirs.get(i, name) == name for i, name in ours.items()):
        return
    row_of = {name: i for i, name in theirs.items()}
    lost = [i for i, name in ours.items() if name not in row_of]
    if lost and len(lost) < len(ours):
        lists = f"{listing(known_names(names))} and {listing(known_names(wanted))}"
        raise InputError(
            f"{init} and the training data have the same number of classes but share only some names: {lists}. Use "
            "data with the same classes, or match them by id with --config.data.names=ids."
        )
    rows = np.arange(layer["bias"].shape[-1])
    for i, name in ours.items():
        rows[i] = row_of.get(name, i)
    for key, values in layer.items():
        layer[key] = values[..., rows]
        layer[key][..., lost] = fresh[key][..., lost]
    if lost:
        print(f"{init} has different classes: the class head's outputs are initialised, and everything else is kept.")
    else:
        print(f"{init} numbers the classes differently: the outputs of the class head are matched by name.")
