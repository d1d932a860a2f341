"""The classification task, which pre-trains the backbone of a detector with DeiT's recipe."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from yolos_jax.accelerators.choice import sentence
from yolos_jax.config.recipes import ClassificationOptimizer, PretrainingConfig, Recipe
from yolos_jax.data.loader import LoadStep, Share
from yolos_jax.data.settings import ClassViewSettings, MixingSettings
from yolos_jax.datasets.class_folders import ClassFolders
from yolos_jax.datasets.tfds.class_records import ClassRecords
from yolos_jax.datasets.tfds.records import find_dataset
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError, address_of
from yolos_jax.model.classifier import abstract_classifier, classifier_params, classify
from yolos_jax.model.classifier_config import ClassifierConfig, ClassifierSettings
from yolos_jax.model.config import ComputeSettings
from yolos_jax.model.init import SCHEMES
from yolos_jax.model.yolos import normalize
from yolos_jax.setting import part
from yolos_jax.tasks.base import RecipeTask, beside_training, check_batch, options_of, plan_sentence, steps_sentence
from yolos_jax.tasks.classification.batches import ClassBatch, ClassSource, classification_work
from yolos_jax.tasks.classification.evaluator import TOPS, ClassEvaluation, ClassEvaluator
from yolos_jax.tasks.classification.mixing import Mixing
from yolos_jax.tasks.classification.plan import CLASS_ORDER, ShuffledPlan
from yolos_jax.tasks.classification.soft_labels import mix, soft_cross_entropy
from yolos_jax.tasks.classification.stochastic_depth import drop_rates, stochastic_depth
from yolos_jax.tasks.classification.views import RandomView
from yolos_jax.tasks.mirror import shared_copy
from yolos_jax.tasks.recipe import batching_of, compute_of, keep_programs, prepare
from yolos_jax.training import loop
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.run import Outcome
from yolos_jax.training.step import Loss, LossReport
from yolos_jax.training.task import Identity
from yolos_jax.weights import checkpoints


def pretrain(
    config: Recipe, workdir: str | Path, accept_differences: bool = False, devices: Sequence[jax.Device] | None = None
) -> Outcome:
    """Trains an image classifier with a recipe; resumes from the newest checkpoint in the workdir if there is one.

    Args:
      config: a recipe, for example from `pretraining_recipe`.
      workdir: folder for checkpoints and metrics; created if necessary.
      accept_differences: resume even if the recipe or the images have changed.
      devices: the devices to train on; by default all.

    Returns:
      The outcome of the run.

    Raises:
      InputError: in the same cases as `yolos_jax.train`.
    """
    config = prepare(config, PretrainingConfig)
    keep_programs(config)
    options = options_of(config, accept_differences)
    with shared_copy(workdir, Processes(), owned=True) as folder:
        outcome = loop.train_task(functools.partial(ClassificationTask, config), folder, options, devices)
    return outcome._replace(workdir=address_of(workdir) or folder)


def evaluate_classifier(config: Recipe, checkpoint: str | Path) -> ClassEvaluation:
    """Top-1 and top-5 accuracy of a checkpoint on a recipe's validation split. Turns on JAX's compilation cache.

    Raises `InputError` if the checkpoint does not match the recipe or the data.
    """
    keep_programs(config)
    params, _, evaluator = class_evaluator_for(config, checkpoint)
    return evaluator(params)


def class_evaluator_for(config: Recipe, checkpoint: str | Path) -> tuple[dict, Meta, ClassEvaluator]:
    """A checkpoint's parameters and metadata, and an evaluator with a recipe's settings."""
    config = prepare(config, PretrainingConfig)
    params, meta = checkpoints.load_any(checkpoint)
    checkpoints.check_model(checkpoint, different_model(classifier_of(config, meta.model.num_classes), meta.model))
    names = tuple(meta.label_names[label] for label in sorted(meta.label_names))
    source = class_source_of(config, "val", (names, f"the checkpoint {checkpoint}"))
    return params, meta, class_evaluator_of(config, meta.model, source, data_mesh())


def classifier_of(config: PretrainingConfig, num_classes: int) -> ClassifierConfig:
    """The architecture of a recipe; if it has `num_classes` 0, uses the given number, from the data or a checkpoint."""
    wanted = part(config.model, ClassifierSettings)
    return ClassifierConfig(**dataclasses.asdict(wanted) | {"num_classes": wanted.num_classes or num_classes})


def class_source_of(
    config: PretrainingConfig, which: str, classes: tuple[tuple[str, ...], str] | None = None
) -> ClassSource:
    """Opens the "train" or "val" split of the data; raises `MissingSplit` or another `InputError` if that fails.

    Args:
      classes: the expected classes, and where they are defined.
    """
    data = config.data
    shared = getattr(data, f"{which}_split"), data.max_images, classes
    # A TFDS folder is NAME/VERSION. Deeper levels are not searched: class folders may contain a million images.
    directory = find_dataset(data.root, 2) if Path(data.root).is_dir() else None
    return ClassRecords(directory, *shared) if directory else ClassFolders(data.root, *shared)


def class_evaluator_of(
    config: PretrainingConfig, model: ClassifierConfig, source: ClassSource, mesh: Mesh
) -> ClassEvaluator:
    """An evaluator for a model and a data set with the same classes."""
    batching, block, precision = batching_of(config, mesh), config.model.query_block, config.eval.precision
    return ClassEvaluator(model, source, batching, config.data.crop_share, block, precision)


class ClassificationTask(RecipeTask):
    """The task of a prepared recipe. Raises `InputError` if the recipe, the data and the devices do not match."""

    bad_images = "losses"
    shown = ("loss", "accuracy")
    headline = tuple(TOPS)
    buckets = 1
    data_order = CLASS_ORDER

    config: PretrainingConfig
    source: ClassSource
    plan: ShuffledPlan
    model: ClassifierConfig

    def __init__(self, config: PretrainingConfig, mesh: Mesh):
        self.config, self.mesh = config, mesh
        self.source = class_source_of(config, "train")
        self.model = classifier_of(config, len(self.source.names))
        if self.model.num_classes < len(self.source.names):
            classes = f"{self.source.origin} has {len(self.source.names)} classes"
            few = f"model.num_classes is {self.model.num_classes} but {classes}"
            raise InputError(f"{few}; set it to 0 to use the number of classes in the data.")
        compute = compute_of(config, ComputeSettings, mesh.devices.flat[0], self.model)
        self.computing = sentence(compute, config.precision, mesh.devices.flat[0])
        self.graph, self.shapes = abstract_classifier(self.model, compute)
        size = config.model.image_size
        self.view = RandomView(size=size, **dataclasses.asdict(part(config.augment, ClassViewSettings)))
        self.mixing = Mixing(size=size, **dataclasses.asdict(part(config.augment, MixingSettings)))
        self._check_batch()
        train = config.train
        images, repeats = len(self.source), config.augment.repeats
        self.plan = ShuffledPlan(images, train.batch_size, train.epochs, config.seed, repeats, train.least_steps)
        self._set_optimizer(scaled(config.optimizer, train.batch_size))
        self.evaluator = self._evaluator() if config.eval.every_epochs else None
        drop_path, smoothing = config.model.drop_path, config.loss.smoothing
        self._loss = classification_loss(self.graph, self.model, drop_path, smoothing, bool(self.mixing))

    def _check_batch(self) -> None:
        train, devices = self.config.train, self.mesh.size
        group = 2 if self.mixing else 1
        reason = ", times 2 because images are mixed in pairs" if self.mixing else ""
        check_batch(train, devices, devices * train.accumulate * group, reason)

    def _evaluator(self) -> ClassEvaluator:
        """The evaluator for the validation split, with the classes of the training split."""
        classes = tuple(self.source.names), self.source.origin
        split = beside_training(lambda: class_source_of(self.config, "val", classes))
        return class_evaluator_of(self.config, self.model, split, self.mesh)

    def starting_params(self) -> dict:
        return starting_classifier(self.model, self.config.init, self.config.seed, self.source.names)

    def work(self, share: Share) -> LoadStep:
        rates = drop_rates(self.model.depth, self.config.model.drop_path)
        return classification_work(self.source, self.plan, self.view, self.model.patch_size, rates, self.mixing, share)

    def loss(self, params: dict, batch: ClassBatch, divisors: Any = None) -> tuple[jax.Array, LossReport]:
        return self._loss(params, batch, divisors)

    def divisors(self, batch: ClassBatch) -> jax.Array:
        return image_count(batch)

    def name_of(self, index: int) -> str:
        return self.source.name(index)

    def data_facts(self, source: ClassSource) -> dict[str, Any]:
        return class_facts(source)

    def label_names(self) -> dict[int, str]:
        return dict(enumerate(self.source.names))

    def other_model(self, before: Any) -> list[str]:
        return different_model(self.model, before)

    def other_data(self, before: Identity) -> list[str]:
        facts = before.data, class_facts(self.source)
        said = [f"{found['images']} images, fingerprint {found['fingerprint']}" for found in facts]
        return [] if said[0] == said[1] else [f"the training data ({said[0]}, vs. {said[1]})"]

    def describe(self) -> list[str]:
        source, repeats = self.source, self.plan.repeats
        images = f"{len(source)} images of {len(source.names)} classes"
        views = f", {repeats} views of each image per batch" if repeats > 1 else ""
        notes = [*source.notes]
        if self.evaluator:
            notes += self.evaluator.source.notes
        line = steps_sentence(images, self, self.mesh.size) + views
        return [line, plan_sentence(self), self.computing, *(f"note: {note}" for note in dict.fromkeys(notes))]


def scaled(optimizer: ClassificationOptimizer, batch_size: int) -> ClassificationOptimizer:
    """A recipe's optimizer settings with the learning rate scaled to the batch size."""
    if not optimizer.rate_batch:
        return optimizer
    rate = optimizer.learning_rate * batch_size / optimizer.rate_batch
    return dataclasses.replace(optimizer, learning_rate=rate)


def starting_classifier(model: ClassifierConfig, init: str, seed: int, names: Sequence[str]) -> dict:
    """Random parameters from an initialisation scheme, or the parameters of a yolos-jax checkpoint.

    If the checkpoint's classes differ from `names`, reinitialises the heads. Raises `InputError` if its model differs.
    """
    if init in SCHEMES:
        return classifier_params(model, seed, init)
    params, meta = checkpoints.load_any(init)
    checkpoints.check_model(
        init, [found for found in different_model(model, meta.model) if not found.startswith("num_classes ")]
    )
    print(f"starting from the checkpoint {init}, step {meta.step}")
    if (meta.model.num_classes, meta.label_names) != (model.num_classes, dict(enumerate(names))):
        fresh = classifier_params(model, seed)
        params |= {name: fresh[name] for name in ("head", "head_dist") if name in fresh}
        print(f"the classes of {init} differ from the data's: the head is reinitialised; everything else is kept.")
    return params


def different_model(model: ClassifierConfig, other: Any) -> list[str]:
    """Lists the differences between `model` and `other`, a checkpoint's model."""
    if not isinstance(other, ClassifierConfig):
        return ["a detector vs. an image classifier"]
    return other.differences(model)


def classification_loss(graph: Any, model: ClassifierConfig, drop_path: float, smoothing: float, mixes: bool) -> Loss:
    """The mean cross entropy of a network on a `ClassBatch` whose images are mixed in pairs.

    With a distillation token, it is averaged over both heads. If `mixes` is False, `share` and `box` are ignored.
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
        images = image_count(batch) if divisors is None else divisors
        total = jnp.where(valid, each, 0.0).sum() / images
        right = (logits.mean.argmax(-1) == labels) & valid
        terms = {"loss": total, "accuracy": right.sum() / images}
        return total, LossReport(terms, jnp.isfinite(each) | ~valid, {})

    return loss


def image_count(batch: ClassBatch) -> jax.Array:
    """The divisor of the loss terms of a whole batch: its number of images, but at least 1."""
    return jnp.maximum(jnp.asarray(batch.valid).sum(), 1).astype(jnp.float32)


def class_facts(source: ClassSource) -> dict[str, Any]:
    """Properties that identify a data set, regardless of where it is stored."""
    return {"fingerprint": source.fingerprint(), "images": len(source)}
