"""The task of classification, what a detector starts from: images with a class each, DeiT's recipe, top-1."""

import copy
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from yolos_jax.config import settings
from yolos_jax.data.classification.class_loader import ClassBatch, ClassSource, LoadClasses
from yolos_jax.data.classification.class_plan import CLASS_ORDER, ShuffledPlan
from yolos_jax.data.classification.class_views import RandomView
from yolos_jax.data.classification.mixing import Mixing
from yolos_jax.data.loader import Share, load
from yolos_jax.datasets.class_folders import ClassFolders
from yolos_jax.datasets.splits import MissingSplit
from yolos_jax.datasets.tfds.class_records import ClassRecords
from yolos_jax.datasets.tfds.records import find_dataset
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError
from yolos_jax.evaluation.class_evaluator import TOPS, ClassEvaluation, ClassEvaluator
from yolos_jax.model.attention_cudnn import decided
from yolos_jax.model.classifier import abstract_classifier, classifier_params, classify, drop_rates, stochastic_depth
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import Compute
from yolos_jax.model.init import SCHEMES
from yolos_jax.model.yolos import normalize
from yolos_jax.objective.soft_labels import mix, soft_cross_entropy
from yolos_jax.tasks.recipe import batching_of, keep_programs, options_of, prepare
from yolos_jax.training import loop
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.optimizer import make_optimizer, schedule_of
from yolos_jax.training.resume import versions
from yolos_jax.training.task import Loss, LossReport, Task
from yolos_jax.weights import checkpoints

COMPUTE = {"compute_dtype": "dtype", "remat": "remat", "attention": "attention", "query_block": "query_block"}
# Settings that say what the parameters are; `drop_path` and how to compute do not.
MODEL = ("width", "depth", "heads", "mlp_ratio", "patch_size", "image_size", "distilled", "layer_norm_eps")


def pretrain(
    config: Any, workdir: str | Path, accept_differences: bool = False, devices: Sequence[jax.Device] | None = None
) -> loop.Outcome:
    """Trains an image classifier as a recipe says, going on from the workdir's newest checkpoint if it has one.

    Arguments and errors are those of `tasks.detection.train`.
    """
    config = prepare(config, settings.CLASSIFICATION)
    options = options_of(config, accept_differences)
    return loop.train(functools.partial(classification_task, config), workdir, options, devices)


def evaluate_classifier(config: Any, checkpoint: str | Path) -> ClassEvaluation:
    """Top-1 and top-5 of a checkpoint on a recipe's validation split; `InputError` if they do not belong together.

    It turns on jax's compilation cache, as `tasks.detection.evaluate` does.
    """
    keep_programs(config)
    params, _, evaluator = class_evaluator_for(config, checkpoint)
    return evaluator(params)


def class_evaluator_for(config: Any, checkpoint: str | Path) -> tuple[dict, Meta, ClassEvaluator]:
    """A checkpoint's parameters and meta, and what evaluates them as a recipe says."""
    config = prepare(config, settings.CLASSIFICATION)
    params, meta = checkpoints.load_any(checkpoint)
    checkpoints.check_model(checkpoint, different_model(classifier_of(config, meta.model.num_classes), meta))
    names = tuple(meta.label_names[label] for label in sorted(meta.label_names))
    source = class_source_of(config, "val", (names, f"the checkpoint {checkpoint}"))
    return params, meta, class_evaluator_of(config, meta.model, source, data_mesh())


def classifier_of(config: Any, num_classes: int) -> ClassifierConfig:
    """The architecture; `num_classes` is the data's or a checkpoint's, for a recipe that leaves it open (0)."""
    values = {name: config.model[name] for name in MODEL}
    return ClassifierConfig(**values, num_classes=config.model.num_classes or num_classes)


def class_source_of(config: Any, which: str, classes: tuple[tuple[str, ...], str] | None = None) -> ClassSource:
    """The data set for "train" or "val"; `MissingSplit` and other `InputError`s say what is wrong with it.

    Args:
      classes: what the classes must be, and where that is from.
    """
    data = config.data
    shared = data[f"{which}_split"], data.max_images, classes
    # NAME/VERSION; a level deeper are the images of class folders, a million of them.
    directory = find_dataset(data.root, 2) if Path(data.root).is_dir() else None
    return ClassRecords(directory, *shared) if directory else ClassFolders(data.root, *shared)


def class_evaluator_of(config: Any, model: ClassifierConfig, source: ClassSource, mesh: Mesh) -> ClassEvaluator:
    """What evaluates a model on a data set whose classes are the model's."""
    return ClassEvaluator(model, source, batching_of(config, mesh), config.data.crop_share, config.model.query_block)


def classification_task(config: Any, mesh: Mesh) -> Task:
    """What a prepared recipe trains; `InputError` if the recipe, the data and the devices do not fit together."""
    source = class_source_of(config, "train")
    model = classifier_of(config, len(source.names))
    if model.num_classes < len(source.names):
        few = f"model.num_classes is {model.num_classes} and {source.origin} has {len(source.names)} classes"
        raise InputError(f"{few}; set it to 0, which takes the data's.")
    compute = decided(Compute(**{n: config.model[key] for key, n in COMPUTE.items()}), model, mesh.devices.flat[0])
    train, data, view, mixing = config.train, config.data, view_of(config), mixing_of(config)
    check_batch(config, mesh.size, bool(mixing))
    plan = ShuffledPlan(len(source), train.batch_size, train.epochs, config.seed, config.augment.repeats)
    optimizer = scaled(config.optimizer, train.batch_size)
    schedule = schedule_of(optimizer, train.epochs, plan.steps_per_epoch)
    evaluator = None
    if config.eval.every_epochs:
        evaluator = class_evaluator_of(config, model, validation_of_classes(config, source), mesh)
    graph, shapes = abstract_classifier(model, compute)
    total = min(len(plan), train.max_steps or len(plan))

    def batches(start: int, share: Share) -> Any:
        rates = drop_rates(model.depth, config.model.drop_path)
        work = LoadClasses(source, plan, view, model.patch_size, rates, mixing, share)
        return load(work, start, total, data.workers, data.ahead)

    return Task(
        shapes=shapes,
        starting_params=functools.partial(starting_classifier, model, config.init, config.seed, source.names),
        loss=classification_loss(graph, model, config.model.drop_path, config.loss.smoothing, bool(mixing)),
        divisors=images_of,
        optimizer=make_optimizer(optimizer.name, schedule, optimizer.weight_decay, optimizer.clip_norm),
        schedule=schedule,
        load=batches,
        total=total,
        per_epoch=plan.steps_per_epoch,
        buckets=1,
        name_of=source.name,
        bad_images="losses",
        shown=("loss", "accuracy"),
        evaluate=evaluator.until_cancelled if evaluator else None,
        headline=tuple(TOPS),
        facts=facts_of_classes(config, source),
        validation={"validation": class_facts(evaluator.source)} if evaluator else {},
        compare=functools.partial(different_model, model),
        other_data=functools.partial(other_images, class_facts(source)),
        meta=lambda step, extra: Meta(model, dict(enumerate(source.names)), step, extra),
        description=described(source, plan, total, mesh.size),
        notes=tuple(dict.fromkeys(source.notes + (evaluator.source.notes if evaluator else ()))),
    )


def validation_of_classes(config: Any, source: ClassSource) -> ClassSource:
    """The data set for "val" beside training, of the same classes; `MissingSplit` says how to do without."""
    try:
        return class_source_of(config, "val", (tuple(source.names), source.origin))
    except MissingSplit as error:
        remedy = "Set --config.data.val_split, or --config.eval.every_epochs=0 to train without evaluation."
        raise MissingSplit(f"{error} {remedy}") from error


def view_of(config: Any) -> RandomView:
    """How training images are augmented."""
    names = "crop_area", "flip", "operations", "chance", "magnitude", "deviation", "erase"
    return RandomView(config.model.image_size, **{name: config.augment[name] for name in names})


def mixing_of(config: Any) -> Mixing:
    """How training images are mixed in pairs; false if they are not."""
    augment = config.augment
    return Mixing(config.model.image_size, augment.mixup, augment.cutmix, augment.mix, augment.switch)


def check_batch(config: Any, devices: int, mixes: bool) -> None:
    """`InputError` for a batch that devices and accumulation, and pairs of mixed images, do not divide."""
    train = config.train
    share = devices * train.accumulate * (2 if mixes else 1)
    if train.batch_size % share:
        pairs = ", in pairs of images that are mixed" if mixes else ""
        raise InputError(
            f"train.batch_size {train.batch_size} must be a multiple of {share} ({devices} device(s), "
            f"train.accumulate {train.accumulate}{pairs})."
        )


def scaled(optimizer: Any, batch_size: int) -> Any:
    """The optimizer's part of a recipe with the learning rate that belongs to the batch size."""
    optimizer = copy.deepcopy(optimizer)
    if optimizer.rate_batch:
        with optimizer.ignore_type():
            optimizer.learning_rate *= batch_size / optimizer.rate_batch
    return optimizer


def starting_classifier(model: ClassifierConfig, init: str, seed: int, names: Sequence[str]) -> dict:
    """Random parameters by one of the schemes of `model.init`, or those of one of our checkpoints.

    Where the checkpoint has other classes than `names`, its heads start fresh. `InputError` if it is of another model.
    """
    if init in SCHEMES:
        return classifier_params(model, seed, init)
    params, meta = checkpoints.load_any(init)
    checkpoints.check_model(
        init, [found for found in different_model(model, meta) if not found.startswith("num_classes ")]
    )
    print(f"starting from the checkpoint {init}, step {meta.step}")
    if (meta.model.num_classes, meta.label_names) != (model.num_classes, dict(enumerate(names))):
        fresh = classifier_params(model, seed)
        params |= {name: fresh[name] for name in ("head", "head_dist") if name in fresh}
        print(f"{init} has other classes than the data: the head starts fresh, everything else is kept.")
    return params


def different_model(model: ClassifierConfig, meta: Meta) -> list[str]:
    """Sentences on how a checkpoint's model is another than `model`."""
    if not isinstance(meta.model, ClassifierConfig):
        return ["a detector against an image classifier"]
    return meta.model.differences(model)


def classification_loss(graph: Any, model: ClassifierConfig, drop_path: float, smoothing: float, mixes: bool) -> Loss:
    """Cross entropy of a network over a `ClassBatch`, its images mixed in pairs; a mean over the batch's images.

    With a distillation token it is the mean of both heads'. Without `mixes`, shares and boxes are not looked at.
    """

    def loss(params: dict, batch: ClassBatch, divisors: Any = None) -> tuple[jax.Array, LossReport]:
        patches, share = normalize(jnp.asarray(batch.patches)), jnp.asarray(batch.share)
        labels, valid = jnp.asarray(batch.labels), jnp.asarray(batch.valid)
        if mixes:
            patches = mix(patches, share, jnp.asarray(batch.box), model.patch_size, model.grid[1])
        branches = stochastic_depth(jnp.asarray(batch.keep), drop_path) if drop_path else None
        logits = classify(graph, params, patches, branches=branches)
        heads = [logits.cls] if logits.distilled is None else [logits.cls, logits.distilled]
        ones = share if mixes else jnp.ones_like(share)
        each = sum(soft_cross_entropy(head, labels, ones, smoothing) for head in heads) / len(heads)
        images = images_of(batch) if divisors is None else divisors
        total = jnp.where(valid, each, 0.0).sum() / images
        right = (logits.mean.argmax(-1) == labels) & valid
        terms = {"loss": total, "accuracy": right.sum() / images}
        return total, LossReport(terms, jnp.isfinite(each) | ~valid, {})

    return loss


def images_of(batch: ClassBatch) -> jax.Array:
    """What the terms of a whole batch are divided by: its images, at least 1."""
    return jnp.maximum(jnp.asarray(batch.valid).sum(), 1).astype(jnp.float32)


def facts_of_classes(config: Any, source: ClassSource) -> dict[str, Any]:
    """What a checkpoint of a run says about it, JSON-ready."""
    recorded = json.loads(config.to_json_best_effort())
    return {"config": recorded, "data": class_facts(source), "order": CLASS_ORDER, "versions": versions()}


def class_facts(source: ClassSource) -> dict[str, Any]:
    """What tells one data set from another, wherever it lies."""
    return {"fingerprint": source.fingerprint(), "images": len(source)}


def other_images(facts: dict[str, Any], meta: Meta) -> list[str]:
    """A sentence if a checkpoint's run had other data than that of these `class_facts`."""
    said = [f"{found['images']} images, fingerprint {found['fingerprint']}" for found in (meta.extra["data"], facts)]
    return [] if said[0] == said[1] else [f"the training data ({said[0]}, against {said[1]})"]


def described(source: ClassSource, plan: ShuffledPlan, total: int, devices: int) -> str:
    """What is about to happen: images, devices, steps."""
    count = Processes().count
    processes = f" in {count} processes" if count > 1 else ""
    views = f", {plan.repeats} views of each image of a batch" if plan.repeats > 1 else ""
    return (
        f"training on {len(source)} images of {len(source.names)} classes, {devices} device(s){processes}: {total} "
        f"steps, {plan.steps_per_epoch} in an epoch, which leaves out {plan.dropped} images{views}"
    )
