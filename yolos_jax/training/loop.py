"""The training loop: sources, starting weights, steps, a checkpoint at the end."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from yolos_jax import weights
from yolos_jax.data.coco import CocoSource
from yolos_jax.data.examples import Example
from yolos_jax.data.loader import Loaded, batches, training_groups
from yolos_jax.errors import InputError, make_folder
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.init import SCHEMES
from yolos_jax.model.yolos import abstract, build
from yolos_jax.recipe import check_same_model, prepare
from yolos_jax.sequence import Geometry, bucket_edges
from yolos_jax.training import checkpoints
from yolos_jax.training.log import Log
from yolos_jax.training.optimizer import adamw, by_epoch, learning_rates
from yolos_jax.training.step import StepReport, data_mesh, initial_state, make_step, split_over


def starting_params(model: YolosConfig, init: str, seed: int) -> dict:
    """Random parameters, those of one of our checkpoints, or converted ones; refuses what does not fit."""
    if init in SCHEMES:
        return build(model, seed, init)[1]
    if checkpoints.steps(init):
        params, meta = checkpoints.load(init)
        check_same_model(meta.model, model, init)
        return params
    _, params, _, report = weights.load_weights(init, model, seed)
    print(report)
    return params


def train(config: Any, workdir: str | Path) -> Path:
    """Trains as a recipe says (see configs/common.py) and returns the checkpoint's folder.

    Writes `metrics.jsonl` (a line every `log_every` steps) beside the checkpoint.

    Raises:
      InputError: bad input, a workdir that is taken, or numbers that are no longer finite.
    """
    checkpoints.check_free(workdir)
    (model, geometry), mesh = prepare(config), data_mesh()
    size, per_replica = config.train.batch_size, config.train.images_per_replica
    if size % mesh.size or size % per_replica:
        raise InputError(
            f"train.batch_size {size} must be a multiple of the {mesh.size} device(s) "
            f"and of train.images_per_replica {per_replica}."
        )
    source = CocoSource(config.data.root, config.data.train_split, model.num_classes, config.data.max_images)
    per_epoch = len(source.examples) // size
    if not per_epoch:
        raise InputError(f"{len(source.examples)} training images do not fill one batch of {size}; lower it.")
    workdir = make_folder(workdir)
    params = starting_params(model, config.init, config.seed)
    optimizer = adamw(by_epoch(rates(config), per_epoch), config.optimizer.weight_decay, config.optimizer.clip_norm)
    step = make_step(abstract(model)[0], optimizer, mesh, per_replica, config.matcher)
    state = initial_state(params, optimizer, mesh)
    total = per_epoch * config.train.epochs
    total = min(total, config.train.max_steps) if config.train.max_steps else total
    print(
        f"training on {len(source.examples)} images ({source.dropped['crowd']} crowd and {source.dropped['empty']} "
        f"empty boxes left out), {mesh.size} device(s), {total} steps"
    )
    skipped, before = [], None
    with Log(workdir / "metrics.jsonl", config.train.log_every, total, rates(config), per_epoch) as log:
        for done, loaded in enumerate(training_batches(config, source, geometry, total), 1):
            skipped += loaded.skipped
            state, report = step(state, jax.device_put(loaded.batch, split_over(mesh)))
            # One step late, so that the device never waits for the host; a bad step changes nothing meanwhile.
            if before is not None:
                check_finite(*before)
            before = report, done, loaded.examples
            log.write(done, report, len(loaded.examples))
        check_finite(*before)
    for sentence in skipped:
        print(f"skipped: {sentence}")
    meta = checkpoints.Meta(model, source.label_names, total, {"config": json.loads(config.to_json_best_effort())})
    checkpoints.save(workdir, total, state.params, meta)
    print(f"saved the checkpoint of step {total} to {workdir}; {len(skipped)} pictures were skipped")
    return workdir


def rates(config: Any) -> np.ndarray:
    """The learning rate of every epoch of a recipe."""
    o = config.optimizer
    return learning_rates(config.train.epochs, o.learning_rate, o.min_lr, o.warmup_epochs)


def training_batches(config: Any, source: CocoSource, geometry: Geometry, total: int) -> Iterator[Loaded]:
    """The batches of `total` steps, epoch after epoch."""
    tokens = [geometry.tokens(e.width, e.height) for e in source.examples]
    edges = bucket_edges(tokens, config.data.buckets)
    size, most = config.train.batch_size, max(1, max(len(e.labels) for e in source.examples))
    groups = (
        group
        for epoch in range(config.train.epochs)
        for group in training_groups(tokens, size, edges, config.seed, epoch)
    )
    return batches(source, itertools.islice(groups, total), geometry, size, most, config.data.on_bad_image)


def check_finite(report: StepReport, step: int, examples: list[Example]) -> None:
    """Stops the run with a sentence that names the images when a step could not be applied."""
    if bool(report.applied):
        return
    flags = np.asarray(report.finite_costs)[: len(examples)]
    bad = [e.image_id for e, fine in zip(examples, flags) if not fine]
    ids = bad or [e.image_id for e in examples]
    what = "matching costs" if bad else "loss, gradients or updated parameters"
    terms = ", ".join(f"{name} {float(value):.4g}" for name, value in report.terms._asdict().items())
    raise InputError(
        f"step {step}: the {what} of image id {', '.join(map(str, ids))} are not finite ({terms}, gradient norm "
        f"{float(report.grad_norm):.4g}); lower the learning rate or look at these images. Nothing was saved."
    )
