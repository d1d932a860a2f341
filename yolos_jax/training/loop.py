"""The training loop: sources, starting weights, steps, a checkpoint at the end."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from yolos_jax import weights
from yolos_jax.data.coco import CocoSource
from yolos_jax.data.loader import Geometry, Loaded, batches, training_groups
from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.init import SCHEMES
from yolos_jax.model.yolos import abstract, build
from yolos_jax.recipe import check_same_model, geometry_of, model_config, set_precision
from yolos_jax.training import checkpoints
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
    workdir = Path(workdir)
    if checkpoints.steps(workdir):
        raise InputError(f"{workdir} already holds a checkpoint; choose another --workdir.")
    set_precision(config)
    model, mesh = model_config(config), data_mesh()
    check_batch(config.train.batch_size, config.train.images_per_replica, mesh)
    source = CocoSource(config.data.root, config.data.train_split, model.num_classes, config.data.max_images)
    geometry = geometry_of(config, model)
    params = starting_params(model, config.init, config.seed)
    workdir.mkdir(parents=True, exist_ok=True)

    per_epoch = len(source.examples) // config.train.batch_size
    optimizer = adamw(
        by_epoch(rates(config), max(per_epoch, 1)), config.optimizer.weight_decay, config.optimizer.clip_norm
    )
    step = make_step(abstract(model)[0], optimizer, mesh, config.train.images_per_replica, config.matcher)
    state = initial_state(params, optimizer, mesh)
    total = per_epoch * config.train.epochs
    total = min(total, config.train.max_steps) if config.train.max_steps else total
    print(
        f"training on {len(source.examples)} images ({source.dropped['crowd']} crowd and {source.dropped['empty']} "
        f"empty boxes left out), {mesh.size} device(s), {total} steps"
    )
    skipped = []
    with Log(workdir / "metrics.jsonl", config.train.log_every, total, rates(config), per_epoch) as log:
        for done, loaded in enumerate(training_batches(config, source, geometry, total), 1):
            skipped += loaded.skipped
            state, report = step(state, jax.device_put(loaded.batch, split_over(mesh)))
            check_finite(report, done, loaded)
            log.write(done, report, len(loaded.examples))
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


def training_batches(config: Any, source: CocoSource, geometry: Geometry, total: int):
    """Batches of as many epochs as `total` steps need."""
    tokens = [geometry.tokens(example) for example in source.examples]
    size, most = config.train.batch_size, max(1, max(len(e.labels) for e in source.examples))
    groups: list = []
    for epoch in range(config.train.epochs):
        if len(groups) >= total and groups:
            break
        groups += training_groups(tokens, size, config.data.buckets, config.seed, epoch)
    yield from batches(source, groups[:total], geometry, size, most, config.data.on_bad_image)


def check_batch(batch_size: int, images_per_replica: int, mesh: Mesh) -> None:
    """The batch must split evenly over devices and cross-entropy groups."""
    if batch_size % mesh.size or batch_size % images_per_replica:
        raise InputError(
            f"train.batch_size {batch_size} must be a multiple of the {mesh.size} device(s) "
            f"and of train.images_per_replica {images_per_replica}."
        )


def check_finite(report: StepReport, step: int, loaded: Loaded) -> None:
    """Stops the run with a sentence that names the images when a step could not be applied."""
    if bool(report.applied):
        return
    flags = np.asarray(report.finite_costs)[: len(loaded.examples)]
    bad = [e.image_id for e, fine in zip(loaded.examples, flags) if not fine]
    ids = bad or [e.image_id for e in loaded.examples]
    what = "matching costs" if bad else "loss or gradients"
    terms = ", ".join(f"{name} {float(value):.4g}" for name, value in report.terms._asdict().items())
    raise InputError(
        f"step {step}: the {what} of image id {', '.join(map(str, ids))} are not finite ({terms}, gradient norm "
        f"{float(report.grad_norm):.4g}); lower the learning rate or look at these images. Nothing was saved."
    )


class Log:
    """A progress bar, and a line of JSON every so many steps."""

    def __init__(self, path: Path, every: int, total: int, rates: np.ndarray, per_epoch: int):
        self.file, self.every, self.total = path.open("a"), max(every, 1), total
        self.rates, self.per_epoch = rates, max(per_epoch, 1)
        self.bar = tqdm(total=total, unit="step", desc="training", mininterval=1.0)
        self.images, self.since = 0, time.perf_counter()

    def write(self, step: int, report: StepReport, images: int) -> None:
        """`step` counts from 1; the line holds that step's terms before its update."""
        self.bar.update()
        self.images += images
        if step % self.every and step != self.total:
            return
        now = time.perf_counter()
        epoch = (step - 1) // self.per_epoch
        line = {name: float(value) for name, value in report.terms._asdict().items()}
        line |= {"grad_norm": float(report.grad_norm), "learning_rate": float(self.rates[epoch])}
        line |= {"images_per_second": self.images / (now - self.since)}
        self.images, self.since = 0, now
        self.file.write(json.dumps({"step": step, "epoch": epoch, **line}) + "\n")
        self.file.flush()
        self.bar.set_postfix({k: f"{line[k]:.3f}" for k in ("total", "ce", "bbox", "giou")})

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()  # before an error is told, so that it gets a line of its own
        self.file.close()
