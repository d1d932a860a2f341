"""What training starts from."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from yolos_jax import weights
from yolos_jax.data.category_names import known_names, listing, plain_name
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
      label_names, by_name: names of the model's labels, by which the rows of the class head are taken where the weights
        have as many classes, and the same names under other numbers. Classes that are others altogether start fresh.
        With `by_name` False, the rows are taken by their numbers.

    Raises:
      InputError: the weights are of another model, or of as many classes of which some have the same names and some
        do not: a list of classes has been changed, and nobody but the user knows what it meant.
    """
    if init in SCHEMES:
        return build(model, seed, init)[1]
    if checkpoint_files.steps(init):
        params, meta = checkpoints.load_any(init)
        if isinstance(meta.model, ClassifierConfig):
            return _from_classifier(params, meta, model, init, seed)
        found, names = meta.model, meta.label_names
        checkpoints.check_model(init, weights.with_classes(found, model.num_classes).differences(model))
        print(f"starting from the checkpoint {init}, step {meta.step}")
    else:
        loaded = weights.load_weights(init, model, seed, any_classes=True, processor=False)
        found, params, names = loaded.config, loaded.params, loaded.label_names or {}
        print(loaded.report)
    if found.num_classes != model.num_classes:
        params["class_head"]["fc3"] = build(model, seed)[1]["class_head"]["fc3"]
        print(
            f"{init} has {found.num_classes} classes and the data {model.num_classes}: the last layer of the class "
            "head starts fresh, everything else is kept."
        )
    elif by_name:
        _match_rows(params, names, label_names or {}, init, lambda: build(model, seed)[1])
    return jax.tree.map(np.asarray, params)


def _from_classifier(params: dict, meta: Meta, model: YolosConfig, init: str, seed: int) -> dict:
    """A detector's parameters from one of our image classifiers, in the way of any ViT; `InputError` for other heads.

    The number of heads changes no shape, so nothing later would find it out.
    """
    found = find_backbone(to_timm(params, meta.model), f"the checkpoint {init}, step {meta.step}")
    started, report = from_deit(found, model, seed)
    if meta.model.heads != model.heads:
        raise InputError(
            f"the classifier {init} has {meta.model.heads} heads and the model wants {model.heads}; take the recipe "
            "that belongs to it, or another classifier."
        )
    print(report)
    return jax.tree.map(np.asarray, started)


def _match_rows(
    params: dict, names: Mapping[int, str], wanted: Mapping[int, str], init: str, fresh: Callable[[], dict]
) -> None:
    """Gives every label the row of the class head that has its name; says so if any moves or starts fresh.

    Labels without a name, and "no object", keep theirs. `InputError` for names that are the same ones in part.
    """
    theirs, ours = ({i: plain_name(name) for i, name in known_names(some).items()} for some in (names, wanted))
    if all(theirs.get(i, name) == name for i, name in ours.items()):
        return
    place = {name: i for i, name in theirs.items()}
    lost = [name for name in ours.values() if name not in place]
    if lost and len(lost) < len(ours):
        lists = f"{listing(known_names(names))} against {listing(known_names(wanted))}"
        raise InputError(
            f"{init} and the data to train on have as many classes and share names, but not all of them: {lists}. Give "
            "data with the same classes, or go on by the numbers with --config.data.names=ids."
        )
    layer, new = params["class_head"]["fc3"], fresh()["class_head"]["fc3"]
    for key, values in layer.items():
        mixed = np.array(new[key], copy=True)
        mixed[..., -1] = values[..., -1]  # "no object"
        for i in range(mixed.shape[-1] - 1):
            if i not in ours:
                mixed[..., i] = values[..., i]
            elif ours[i] in place:
                mixed[..., i] = values[..., place[ours[i]]]
        params["class_head"]["fc3"][key] = mixed
    if lost:
        print(f"{init} has other classes: their outputs in the class head start fresh, everything else is kept.")
    else:
        print(f"{init} numbers the classes otherwise: the outputs of the class head are taken by name.")
