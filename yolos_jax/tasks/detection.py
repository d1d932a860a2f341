"""The task of detection: COCO data in a plan of buckets, the set loss, COCO's numbers."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from yolos_jax.data.examples import TrainBatch
from yolos_jax.data.loader import LoadStep, Share, load
from yolos_jax.data.plan import ORDER, TrainingPlan
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.plausible import nothing_to_find
from yolos_jax.datasets.rules import Known
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError
from yolos_jax.evaluation.evaluator import Evaluation, Evaluator
from yolos_jax.inference.loading import load_model
from yolos_jax.model.attention_cudnn import decided
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import abstract, apply
from yolos_jax.objective.losses import Divisors, Targets, divisors_of, set_loss
from yolos_jax.objective.matching import check_matcher
from yolos_jax.objective.weights import LossWeights
from yolos_jax.tasks import recipe
from yolos_jax.training import loop
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.optimizer import make_optimizer, schedule_of
from yolos_jax.training.rates import note_of, rates_of
from yolos_jax.training.resume import versions
from yolos_jax.training.task import Loss, LossReport, Task
from yolos_jax.weights.checkpoints import check_model
from yolos_jax.weights.starting import starting_params


def train(
    config: Any, workdir: str | Path, accept_differences: bool = False, devices: Sequence[jax.Device] | None = None
) -> loop.Outcome:
    """Trains a detector as a recipe says, going on from the workdir's newest checkpoint if it has one.

    Args:
      config: a recipe; docs/settings.md lists its settings.
      workdir, devices: see `training.loop.train`, also for the errors raised.
      accept_differences: go on even if the recipe or the annotations are not what they were.
    """
    config = recipe.prepare(config)
    options = recipe.options_of(config, accept_differences)
    return loop.train(functools.partial(detection_task, config), workdir, options, devices)


def evaluate(config: Any, checkpoint: str | Path) -> Evaluation:
    """COCO's 12 numbers of a checkpoint on a recipe's validation split, and its detections.

    It turns on jax's compilation cache, see `compiled.keep_compiled` and `eval.compilation_cache`.
    The checkpoint is a folder of ours, a Hugging Face folder, or a model on the hub. `InputError` says what is wrong
    with the input, or that the checkpoint's model is not the recipe's.
    """
    recipe.keep_programs(config)
    params, _, evaluator = evaluator_for(config, checkpoint)
    return evaluator(params)


def evaluator_for(config: Any, checkpoint: str | Path) -> tuple[dict, Meta, Evaluator]:
    """A checkpoint's parameters and meta, and what evaluates them as a recipe says."""
    config = recipe.prepare(config)
    params, meta = load_model(checkpoint)
    model = recipe.model_of(config, meta.model.num_classes)
    check_model(checkpoint, meta.model.differences(model))
    model = dataclasses.replace(model, layer_norm_eps=meta.model.layer_norm_eps)
    # A run's labels are its own, whatever the validation file lists; without a run, the recipe's.
    labels = meta.category_ids or (tuple(range(model.num_classes)) if "config" in meta.extra else None)
    turned = meta.extra.get("data", {}).get("turned", "")
    known = Known(meta.label_names, f"the checkpoint {checkpoint}", undecided=turned)
    source = recipe.source_of(config, "val", labels, model.num_classes, known=known)
    return params, meta, recipe.evaluator_of(config, model, source, data_mesh())


def detection_task(config: Any, mesh: Mesh) -> Task:
    """What a prepared recipe trains; `InputError` if the recipe, the data and the devices do not fit together."""
    check_matcher(config.matcher)
    source = recipe.source_of(config, "train")
    refuse_nothing_to_train_on(source)
    model = recipe.model_of(config, source.num_classes)
    compute = decided(recipe.compute_of(config), model, mesh.devices.flat[0])
    recipe.check_batch(config, mesh.size)
    train, data, optimizer = config.train, config.data, config.optimizer
    plan = recipe.plan_of(config, model, source.examples.sizes)
    schedule = schedule_of(optimizer, train.epochs, plan.steps_per_epoch)
    evaluator = None
    if config.eval.every_epochs:  # the validation set has the training set's labels
        known = Known(source.label_names, source.origin, undecided=source.turning.decided)
        val = recipe.validation_of(config, source.category_ids, source.num_classes, known=known)
        evaluator = recipe.evaluator_of(config, model, val, mesh)
    graph, shapes = abstract(model, compute)
    rates = rates_of(optimizer, shapes)
    total = min(len(plan), train.max_steps or len(plan))

    def batches(start: int, share: Share) -> Any:
        work = LoadStep(source, plan, model.patch_size, compute.max_side, share)
        return load(work, start, total, data.workers, data.ahead)

    names = source.label_names, data.names == "match"
    notes = source.notes + (scoring_notes(evaluator.source) if evaluator else ())
    notes += note_of(shapes, rates, optimizer.freeze)
    return Task(
        shapes=shapes,
        starting_params=functools.partial(starting_params, model, config.init, config.seed, *names),
        loss=detection_loss(graph, train.images_per_replica, config.matcher, mesh, LossWeights(**config.loss)),
        divisors=batch_divisors(train.images_per_replica),
        optimizer=make_optimizer(optimizer.name, schedule, optimizer.weight_decay, optimizer.clip_norm, rates),
        rates=rates,
        schedule=schedule,
        load=batches,
        total=total,
        per_epoch=plan.steps_per_epoch,
        buckets=len(plan.edges),
        name_of=lambda index: f"image id {source.examples.image_ids[index]}",
        bad_images="matching costs",
        shown=("total", "ce", "bbox", "giou"),
        evaluate=evaluator.until_cancelled if evaluator else None,
        headline=("AP", "AP50"),
        facts=facts_of(config, source),
        validation={"validation": data_facts(evaluator.source)} if evaluator else {},
        compare=lambda meta: meta.model.differences(model),
        other_data=functools.partial(other_data, data_facts(source), source.label_names),
        meta=functools.partial(_meta, config, model, source),
        description=describe(source, plan, total, mesh.size),
        notes=tuple(dict.fromkeys(notes)),
    )


def detection_loss(graph: Any, images_per_replica: int, matcher: str, mesh: Mesh, weights: LossWeights) -> Loss:
    """The set loss of a network over a `TrainBatch`, see `objective.losses.set_loss`."""

    def loss(params: dict, batch: TrainBatch, divisors: Divisors | None = None) -> tuple[jax.Array, LossReport]:
        out = apply(graph, params, batch.patches, batch.grid)
        targets = Targets(*map(jnp.asarray, (batch.labels, batch.boxes, batch.count, batch.valid)))
        terms, matching = set_loss(out.logits, out.boxes, targets, images_per_replica, matcher, mesh, divisors, weights)
        measured = {"matcher_ms": 1e3 * matching.seconds.sum() / mesh.size}
        return terms.total, LossReport(terms._asdict(), matching.finite, measured)

    return loss


def batch_divisors(images_per_replica: int) -> Callable[[TrainBatch], Divisors]:
    """(batch) -> what the terms of a whole batch are divided by."""
    return lambda batch: divisors_of(jnp.asarray(batch.count), jnp.asarray(batch.valid), images_per_replica)


def facts_of(config: Any, source: DataSet) -> dict[str, Any]:
    """What a checkpoint of a run says about it, JSON-ready."""
    recorded = json.loads(config.to_json_best_effort())
    order = ORDER if config.data.scales else 1  # without augmentation, nothing has changed since the first one
    return {"config": recorded, "data": data_facts(source), "order": order, "versions": versions()}


def data_facts(source: DataSet) -> dict[str, Any]:
    """What tells one data set from another, wherever it lies."""
    facts = {"fingerprint": source.examples.fingerprint(), "images": len(source.examples)}
    return facts | ({"turned": source.turning.decided} if source.turning.decided else {})


def other_data(facts: dict[str, Any], label_names: Mapping[int, str], meta: Meta) -> list[str]:
    """Sentences on how a checkpoint's run had other data than that of these `data_facts` and names."""
    before, now = ({"turned": "stored"} | x for x in (meta.extra["data"], facts))  # as before version 0.3
    found = []
    if before != now:
        said = [f"{x['images']} images, fingerprint {x['fingerprint']}" for x in (before, now)]
        if before["turned"] != now["turned"]:
            said = [f"{text}, images that EXIF turns read {x['turned']}" for text, x in zip(said, (before, now))]
        found.append(f"the training annotations ({said[0]}, against {said[1]})")
    names = meta.label_names
    renamed = [i for i in sorted(names.keys() & label_names.keys()) if names[i] != label_names[i]]
    if renamed:
        some = ", ".join(f"{names[i]!r} against {label_names[i]!r}" for i in renamed[:5]) + ", ..." * (len(renamed) > 5)
        found.append(f"the names of {len(renamed)} classes ({some})")
    return found


def refuse_nothing_to_train_on(source: DataSet) -> None:
    """`InputError` for a data set without a box."""
    nothing = nothing_to_find(source.dropped, int(source.examples.counts.sum()), source.origin)
    if nothing:
        raise InputError(f"there is no box to train on: {nothing}.")


def scoring_notes(source: DataSet) -> tuple[str, ...]:
    """What is worth knowing about a data set to evaluate on; first, that there is nothing to find in it."""
    boxes = int(source.examples.counts.sum()) + source.dropped["empty"]  # which count when results are scored
    nothing = nothing_to_find(source.dropped, boxes, source.origin)
    return (*((f"there is no box to score: {nothing}; all numbers will be -1",) if nothing else ()), *source.notes)


def _meta(config: Any, model: YolosConfig, source: DataSet, step: int, extra: dict[str, Any]) -> Meta:
    """What a checkpoint of a run says about itself."""
    ids = None if config.data.categories == "raw" else source.category_ids
    return Meta(model, source.label_names, step, extra, ids, config.model.max_side)


def describe(source: DataSet, plan: TrainingPlan, total: int, devices: int) -> str:
    """What is about to happen: images, devices, steps, buckets, padding."""
    count = Processes().count
    processes = f" in {count} processes" if count > 1 else ""
    return (
        f"training on {len(source.examples)} images ({source.dropped['crowd']} crowd and {source.dropped['empty']} "
        f"empty boxes left out, {source.clipped} clipped) of {source.num_classes} classes, {devices} device(s)"
        f"{processes}: {total} steps, {plan.steps_per_epoch} in an epoch, which leaves out {plan.dropped} images\n"
        f"{len(plan.edges)} bucket(s) of {', '.join(map(str, plan.edges))} patches; {plan.padding():.2%} of the "
        "first epoch's patches are padding"
    )
