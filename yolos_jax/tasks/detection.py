"""The detection task: a plan with buckets, the set loss and the COCO metrics."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from yolos_jax.accelerators.choice import check_matcher, sentence
from yolos_jax.config.reader import stated_architecture
from yolos_jax.config.recipes import DetectionConfig, Recipe
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.examples import TrainBatch
from yolos_jax.data.loader import LoadStep, Share
from yolos_jax.data.plan import ORDER, TrainingPlan
from yolos_jax.datasets.category_names import distinct
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.settings import Settled
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError, address_of, counted
from yolos_jax.evaluation.evaluator import Evaluation, Evaluator
from yolos_jax.evaluation.settings import EvaluationSettings
from yolos_jax.evaluation.validation_loss import ValidationLoss
from yolos_jax.inference.fonts import missing_note
from yolos_jax.inference.loading import load_model
from yolos_jax.model.config import DetectorComputeSettings, YolosConfig
from yolos_jax.model.yolos import abstract, apply
from yolos_jax.objective.losses import Divisors, Targets, divisors_of, set_loss
from yolos_jax.objective.weights import LossWeights
from yolos_jax.tasks import recipe
from yolos_jax.tasks.architecture import of_checkpoint, settle
from yolos_jax.tasks.base import (
    RecipeTask,
    beside_training,
    check_batch,
    frozen_note,
    options_of,
    plan_sentence,
    steps_sentence,
)
from yolos_jax.tasks.mirror import shared_copy
from yolos_jax.tasks.pictures.run_pictures import Picture
from yolos_jax.tasks.pictures.samples import Samples
from yolos_jax.tasks.rare_classes import class_weights_of, rare_notes, repeats_of
from yolos_jax.training import loop
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.rates import rates_of
from yolos_jax.training.run import Outcome
from yolos_jax.training.step import Loss, LossReport
from yolos_jax.training.task import Evaluated, Identity
from yolos_jax.weights.checkpoints import check_model
from yolos_jax.weights.starting import starting_params


def train(
    config: Recipe, workdir: str | Path, accept_differences: bool = False, devices: Sequence[jax.Device] | None = None
) -> Outcome:
    """Trains a detector with a recipe; resumes from the newest checkpoint in the workdir if there is one.

    It turns on JAX's compilation cache; see `compiled.keep_compiled` and `eval.compilation_cache`.

    Args:
      config: a recipe, for example from `detection_recipe` or from `get_config` of a recipe file.
      workdir: folder for checkpoints, metrics and figures, created if necessary. It can be an address such as
        `gs://bucket/run`; see `mirror.working_copy`.
      accept_differences: resume even if the recipe or the annotations have changed.
      devices: the devices to train on, by default all; a run may resume on different devices.

    Returns:
      The outcome of the run.

    Raises:
      InputError: the recipe, data, weights and devices do not match, the workdir contains a different run, an
        image cannot be read, the disk is full, a data worker died, or a value is not finite.
    """
    with shared_copy(workdir, Processes(), owned=True) as folder:
        config = settle(config, folder)
        recipe.keep_programs(config)
        options = options_of(config, accept_differences)
        outcome = loop.train_task(functools.partial(DetectionTask, config), folder, options, devices)
    return outcome._replace(workdir=address_of(workdir) or folder)


WORST = 3  # number of classes with the lowest AP to list at the end of a run


class DetectionTask(RecipeTask):
    """The task of a prepared recipe. Raises `InputError` if the recipe, the data and the devices do not match.

    Args:
      source: the data to train on; None for the recipe's training split.
    """

    bad_images = "matching costs"
    shown = ("total", "ce", "bbox", "giou")
    headline = ("AP", "AP50")

    config: DetectionConfig
    source: DataSet
    plan: TrainingPlan
    model: YolosConfig

    def __init__(self, config: DetectionConfig, mesh: Mesh, source: DataSet | None = None):
        check_matcher(config.matcher)
        self.config, self.mesh = config, mesh
        self.source = source or recipe.source_of(config, "train")
        refuse_nothing_to_train_on(self.source)
        self.model = recipe.model_of(config, self.source.num_classes)
        self.compute = recipe.compute_of(config, DetectorComputeSettings, mesh.devices.flat[0], self.model)
        self.graph, self.shapes = abstract(self.model, self.compute)
        self._check_batch()
        self.repeats = repeats_of(self.source.examples, config.data.repeat_threshold)
        self.plan = recipe.plan_of(config, self.model, self.source.examples.sizes, self.repeats)
        self.buckets = len(self.plan.edges)
        self._set_optimizer(config.optimizer, rates_of(config.optimizer, self.shapes))
        self.weights = class_weights_of(config.loss, self.source)
        self.evaluator = self._evaluator() if config.eval.every_epochs else None
        replica = config.train.images_per_replica
        self._loss = detection_loss(self.graph, replica, config.matcher, mesh, self.weights)
        self._divisors = batch_divisors(replica)

    def _check_batch(self) -> None:
        """Checks the batch size. Accumulation must not split the groups over which cross entropy is normalised."""
        train, devices = self.config.train, self.mesh.size
        replica = train.images_per_replica
        group = replica if train.accumulate > 1 else 1
        multiple = math.lcm(devices * train.accumulate * group, replica)
        check_batch(train, devices, multiple, f", train.images_per_replica {replica}")

    def _evaluator(self) -> Evaluator:
        """The evaluator for the validation split, with the labels of the training split."""
        labels = self.source.category_ids, self.source.num_classes
        known = Settled(label_names=self.source.label_names, by=self.source.origin, exif=self.source.exif.decided)
        split = beside_training(lambda: recipe.source_of(self.config, "val", *labels, known=known))
        loss = ValidationLoss(split.examples, self.config.matcher, self.weights)
        return recipe.evaluator_of(self.config, self.model, split, self.mesh, loss)

    def kinds_of_pictures(self, workdir: Path) -> list[Picture]:
        kinds = super().kinds_of_pictures(workdir)
        return [*kinds, Samples(workdir, self.evaluator.source, self.config.eval.font)] if self.evaluator else kinds

    def remarks(self, result: Evaluated) -> dict[str, Any]:
        categories = getattr(result, "categories", None)
        return {} if categories is None else {"worst": categories.worst(WORST)}

    def advice(self, best: Path, meta: Meta) -> list[str]:
        worst = ", ".join(f"{name} {ap:.3f}" for name, ap in meta.extra.get("worst", []))
        classes = [f"the classes with the lowest AP: {worst}"] if worst else []
        return [*classes, f"to predict with it: yolos-predict IMAGES --checkpoint {best} --out DIR"]

    def starting_params(self) -> dict:
        config = self.config
        by_name = config.data.names == "match"
        return starting_params(self.model, config.init, config.seed, self.source.label_names, by_name)

    def work(self, share: Share) -> LoadStep:
        return detection_work(self.source, self.plan, self.model.patch_size, self.compute.max_side, share)

    def loss(self, params: dict, batch: TrainBatch, divisors: Any = None) -> tuple[jax.Array, LossReport]:
        return self._loss(params, batch, divisors)

    def divisors(self, batch: TrainBatch) -> Divisors:
        return self._divisors(batch)

    def name_of(self, index: int) -> str:
        return f"image id {self.source.examples.image_ids[index]}"

    @property
    def data_order(self) -> int:
        data = self.config.data
        augments = bool(data.scales) or data.augment != "none"
        return ORDER if augments else 1  # without augmentation, the order has not changed since version 1

    def data_facts(self, source: DataSet) -> dict[str, Any]:
        return data_facts(source)

    def identity(self) -> Identity:
        found = super().identity()
        data = self.config.data
        ids = None if data.categories == "raw" else self.source.category_ids
        return dataclasses.replace(found, category_ids=ids, max_side=self.config.model.max_side)

    def label_names(self) -> dict[int, str]:
        return self.source.label_names

    def other_data(self, before: Identity) -> list[str]:
        return other_data(data_facts(self.source), self.source.label_names, before)

    def describe(self) -> list[str]:
        source, plan = self.source, self.plan
        images = (
            f"{len(source.examples)} images ({source.dropped['crowd']} crowd and {source.dropped['empty']} empty boxes "
            f"skipped, {source.clipped} clipped) of {source.num_classes} classes"
        )
        edges = ", ".join(map(str, plan.edges))
        buckets = f"{counted(len(plan.edges), 'bucket')} of {edges} patches"
        padding = f"{plan.padding():.2%} of the first epoch's patches are padding"
        notes = [*source.notes, *rare_notes(self.repeats, self.weights, source)]
        if self.evaluator:
            notes += scoring_notes(self.evaluator.source)
            notes += font_notes(source.label_names, self.config.eval)
        notes += frozen_note(self.shapes, self.rates, self.config.optimizer.freeze)
        lines = [steps_sentence(images, self, self.mesh.size), plan_sentence(self), f"{buckets}; {padding}"]
        lines.append(sentence(self.compute, self.config.precision, self.mesh.devices.flat[0]))
        return lines + [f"note: {note}" for note in dict.fromkeys(notes)]


def detection_loss(graph: Any, images_per_replica: int, matcher: str, mesh: Mesh, weights: LossWeights) -> Loss:
    """The set loss of a network on a `TrainBatch`; see `objective.losses.set_loss`."""

    def loss(params: dict, batch: TrainBatch, divisors: Divisors | None = None) -> tuple[jax.Array, LossReport]:
        out = apply(graph, params, batch.patches, batch.grid)
        targets = Targets(*map(jnp.asarray, (batch.labels, batch.boxes, batch.count, batch.valid)))
        terms, matching = set_loss(out.logits, out.boxes, targets, images_per_replica, matcher, mesh, divisors, weights)
        measured = {"matcher_ms": 1e3 * matching.seconds.sum() / mesh.size}
        return terms.total, LossReport(terms._asdict(), matching.finite, measured)

    return loss


def batch_divisors(images_per_replica: int) -> Callable[[TrainBatch], Divisors]:
    """Returns a function that computes the divisors of the loss terms from a whole batch."""
    return lambda batch: divisors_of(jnp.asarray(batch.count), jnp.asarray(batch.valid), images_per_replica)


def evaluate(config: Recipe, checkpoint: str | Path, nms: float | None = None) -> Evaluation:
    """Evaluates a checkpoint on a recipe's validation split; returns the 12 COCO metrics and the detections.

    It turns on JAX's compilation cache; see `compiled.keep_compiled` and `eval.compilation_cache`.

    Args:
      config: a recipe; its validation split is evaluated.
      checkpoint: a checkpoint folder, a Hugging Face folder, or a model on the hub.
      nms: IoU threshold for non-maximum suppression per class, from 0 to 1; None for no suppression.

    Raises:
      InputError: the checkpoint or the data is missing, the recipe has a different model, or an image is unreadable.
    """
    recipe.keep_programs(config)
    params, _, evaluator = evaluator_for(config, checkpoint, nms)
    return evaluator(params)


def evaluator_for(config: Recipe, checkpoint: str | Path, nms: float | None = None) -> tuple[dict, Meta, Evaluator]:
    """A checkpoint's parameters and metadata, and an evaluator with a recipe's settings.

    If the recipe has `model.from_init`, the architecture comes from the checkpoint.
    """
    stated = stated_architecture(config)
    config = recipe.prepare(config, DetectionConfig)
    params, meta = load_model(checkpoint)
    config = of_checkpoint(config, meta.model, stated)
    model = recipe.model_of(config, meta.model.num_classes)
    check_model(checkpoint, meta.model.differences(model))
    model = dataclasses.replace(model, layer_norm_eps=meta.model.layer_norm_eps)
    source = validation_split(config, meta, checkpoint)
    return params, meta, recipe.evaluator_of(config, model, source, data_mesh(), nms=nms)


def validation_split(config: DetectionConfig, meta: Meta[YolosConfig], checkpoint: str | Path) -> DataSet:
    """A recipe's validation split with the labels of a checkpoint.

    The labels come from the run that wrote the checkpoint, not from the split; if there is no run, from the recipe.
    """
    classes = meta.model.num_classes
    labels = meta.category_ids or (tuple(range(classes)) if "config" in meta.extra else None)
    turned = meta.extra.get("data", {}).get("turned", "")
    known = Settled(label_names=meta.label_names, by=f"the checkpoint {checkpoint}", exif=turned)
    return recipe.source_of(config, "val", labels, classes, known=known)


def data_facts(source: DataSet) -> dict[str, Any]:
    """Properties that identify a data set, regardless of where it is stored."""
    facts = {"fingerprint": source.examples.fingerprint(), "images": len(source.examples)}
    return facts | ({"turned": source.exif.decided} if source.exif.decided else {})


def other_data(facts: dict[str, Any], label_names: Mapping[int, str], before: Identity) -> list[str]:
    """Lists the differences between the data of a checkpoint's run and the given `data_facts` and names."""
    found = []
    theirs, ours = ({"turned": "stored"} | data for data in (before.data, facts))
    if theirs != ours:
        said = [f"{data['images']} images, fingerprint {data['fingerprint']}" for data in (theirs, ours)]
        if theirs["turned"] != ours["turned"]:
            said = [f"{text}, EXIF-rotated images read as {data['turned']}" for text, data in zip(said, (theirs, ours))]
        found.append(f"the training annotations ({said[0]}, vs. {said[1]})")
    names = distinct(before.label_names)  # older checkpoints may have duplicate names
    renamed = [i for i in sorted(names.keys() & label_names.keys()) if names[i] != label_names[i]]
    if renamed:
        some = ", ".join(f"{names[i]!r} vs. {label_names[i]!r}" for i in renamed[:5])
        more = ", ..." if len(renamed) > 5 else ""
        found.append(f"the names of {len(renamed)} classes ({some}{more})")
    return found


def refuse_nothing_to_train_on(source: DataSet) -> None:
    """Raises `InputError` for a data set without boxes."""
    nothing = source.nothing_to_train_on()
    if nothing:
        raise InputError(f"there are no boxes to train on: {nothing}.")


def font_notes(names: Mapping[int, str], settings: EvaluationSettings) -> list[str]:
    """A note if some class names cannot be drawn. Raises `InputError` if the font cannot be read."""
    note = missing_note(names.values(), settings.font, "--config.eval.font")
    return [note] if note else []


def scoring_notes(source: DataSet) -> tuple[str, ...]:
    """Notes about a data set for evaluation, starting with a warning if it has no boxes."""
    nothing = source.nothing_to_score()
    return (*((f"there are no boxes to score: {nothing}; all metrics will be -1",) if nothing else ()), *source.notes)
