"""What training starts from."""

import jax
import numpy as np

from yolos_jax import checkpoints, weights
from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.init import SCHEMES
from yolos_jax.model.yolos import build


def starting_params(model: YolosConfig, init: str, seed: int) -> dict:
    """Random parameters, those of one of our checkpoints, or converted ones.

    Weights of a detector with another number of classes keep everything but the last layer of the class head, the
    only one that depends on it.

    Args:
      model: the model wanted.
      init: a scheme of `model.init`, or where weights are (see `weights.load_weights`).
      seed: of whatever starts fresh.

    Raises:
      InputError: the weights are of another model.
    """
    if init in SCHEMES:
        return build(model, seed, init)[1]
    if checkpoints.steps(init):
        params, meta = checkpoints.load(init)
        found = meta.model
        different = weights.with_classes(found, model.num_classes).differences(model)
        if different:
            raise InputError(f"the checkpoint {init} is of another model than the config: {'; '.join(different)}.")
        print(f"starting from the checkpoint {init}, step {meta.step}")
    else:
        loaded = weights.load_weights(init, model, seed, any_classes=True, processor=False)
        found, params = loaded.config, loaded.params
        print(loaded.report)
    if found.num_classes != model.num_classes:
        params["class_head"]["fc3"] = build(model, seed)[1]["class_head"]["fc3"]
        print(
            f"{init} has {found.num_classes} classes and the data {model.num_classes}: the last layer of the class "
            "head starts fresh, everything else is kept."
        )
    return jax.tree.map(np.asarray, params)
