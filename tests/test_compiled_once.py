"""Tests share a compiled program only between runs whose recipes result in the same program."""

import jax
import numpy as np
import pytest
from compiled_once import STEP, compiled_once, key_of
from micro_run import micro_config, micro_data

from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.tasks import recipe
from yolos_jax.tasks.detection import DetectionTask
from yolos_jax.training.rates import make_average, make_hold
from yolos_jax.training.step import make_gradient, make_step

SAME = {"seed": 3, "data.workers": 2, "train.max_steps": 1, "train.log_every": 5, "checkpoint.keep": 1}
SAME |= {"optimizer.min_lr": 1e-5}  # has no effect, because both epochs use the base learning rate
OTHER = {
    "matcher": "host", "model.width": 24, "model.num_classes": 11, "model.remat": True, "model.query_block": 64,
    "model.compute_dtype": "bfloat16", "loss.ce": 2.0, "train.epochs": 3, "train.accumulate": 2, "train.ema": 0.5,
    "train.images_per_replica": 2, "optimizer.name": "lion", "optimizer.learning_rate": 0.01,
    "optimizer.schedule": "step", "optimizer.weight_decay": 0.2, "optimizer.clip_norm": 0.7,
    "optimizer.freeze": ("norm",), "optimizer.layer_decay": 0.5, "optimizer.backbone_lr": 1e-4,
}  # fmt: skip


def test_programs_are_shared_only_if_everything_matches(tmp_path):
    root = micro_data(tmp_path)

    def key(devices=1, **changes):
        config = recipe.prepare(micro_config(root, **changes), DetectionConfig)
        mesh = data_mesh(jax.devices()[:devices])
        task, train = DetectionTask(config, mesh), config.train
        with compiled_once() as programs:
            gradient = make_gradient(task.loss, task.divisors, mesh, train.accumulate, make_hold(task.rates))
            steps = [make_step(gradient, task.optimizer, mesh, make_average(train.ema, task.rates)) for _ in range(2)]
        ((name, key),) = programs
        assert name == STEP and steps[0] is steps[1]
        return key

    whole = key()
    assert key(**SAME) == whole
    others = {"devices": key(4)} | {name: key(**{name: value}) for name, value in OTHER.items()}
    assert not [name for name, other in others.items() if other == whole]
    assert len(set(others.values())) == len(others)


def closing(x):
    return lambda y: x


@pytest.mark.parametrize(
    "one, other",
    [(1, 1.0), (1, True), (0.0, -0.0), ((1, 2), [1, 2]), ({"a": 1}, {"a": 2}), (np.zeros(2), np.zeros(2, np.float32)),
     (np.zeros((1, 2)), np.zeros((2, 1))), (object(), object()), (closing(1), closing(2)), ({1}, {1})],
)  # fmt: skip
def test_different_keys(one, other):
    assert key_of(one) == key_of(one) and key_of(closing(one)) == key_of(closing(one))
    assert key_of(one) != key_of(other) and key_of(closing(one)) != key_of(closing(other))
