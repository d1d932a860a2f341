"""What training starts from."""

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
    """Random parameters, those of one of our checkpoints (of a detector or of a classifier), or converted ones.

    Weights of a detector with another number of classes keep everything but the last layer of the class head, the
    only one that depends on it.

    Args:
      model: the model wanted.
      init: a scheme of `model.init`, or where weights are (see `weights.load_weights`).
      seed: of whatever starts fresh.
      label_names: names of the model's labels. Where the weights have as many classes, the rows of the class head are
        taken by these names; if none of the names is the same, the rows start fresh.
      by_name: False takes the rows by their numbers.

    Raises:
      InputError: the weights are of another model, or they have as many classes and only some of the names: the list
        of classes has been changed, and nobody but the user knows what is meant.
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
        print(loaded.report)
    if found.num_classes != model.num_classes:
        params["class_head"]["fc3"] = _fresh_last_layer(model, seed)
        print(
            f"{init} has {found.num_classes} classes and the data {model.num_classes}: the last layer of the class "
            "head starts fresh, everything else is kept."
        )
    elif by_name:
        _match_rows(params["class_head"]["fc3"], names, label_names or {}, init, _fresh_last_layer(model, seed))
    return jax.tree.map(np.asarray, params)


def refuse_nothing_to_start_from(init: str) -> None:
    """`InputError` for a recipe whose weights are to be given and are not."""
    if not init:
        raise InputError(
            "the recipe needs weights to start from: --config.init=hustvl/yolos-small (or a folder), or "
            "--config.init=from_nothing."
        )


def _fresh_last_layer(model: YolosConfig, seed: int) -> dict:
    """The last layer of the class head, at random."""
    return build(model, seed)[1]["class_head"]["fc3"]


def _from_classifier(params: dict, meta: Meta, model: YolosConfig, init: str, seed: int) -> dict:
    """A detector's parameters from one of our image classifiers, which is taken like any ViT."""
    found = find_backbone(to_timm(params, meta.model), f"the checkpoint {init}, step {meta.step}")
    started, report = from_deit(found, model, seed)
    check_vit(VitSettings(meta.model.heads, meta.model.layer_norm_eps), model, f"the classifier {init}")
    print(report)
    return jax.tree.map(np.asarray, started)


def _match_rows(layer: dict, names: Mapping[int, str], wanted: Mapping[int, str], init: str, fresh: dict) -> None:
    """Gives every label the row of the class head that has its name; says so if any row moves or starts fresh.

    Labels without a name, and "no object", keep theirs. `InputError` if only some of the names are there.
    """
    theirs = {i: plain_name(name) for i, name in known_names(names).items()}
    ours = {i: plain_name(name) for i, name in known_names(wanted).items()}
    if all(theirs.get(i, name) == name for i, name in ours.items()):
        return
    row_of = {name: i for i, name in theirs.items()}
    lost = [i for i, name in ours.items() if name not in row_of]
    if lost and len(lost) < len(ours):
        lists = f"{listing(known_names(names))} against {listing(known_names(wanted))}"
        raise InputError(
            f"{init} and the data to train on have as many classes and share names, but not all of them: {lists}. Give "
            "data with the same classes, or go on by the numbers with --config.data.names=ids."
        )
    rows = np.arange(layer["bias"].shape[-1])
    for i, name in ours.items():
        rows[i] = row_of.get(name, i)
    for key, values in layer.items():
        layer[key] = values[..., rows]
        layer[key][..., lost] = fresh[key][..., lost]
    if lost:
        print(f"{init} has other classes: their outputs in the class head start fresh, everything else is kept.")
    else:
        print(f"{init} numbers the classes otherwise: the outputs of the class head are taken by name.")
