"""A recipe made concrete: the plan, the step, the evaluation, and what a run starts from."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from yolos_jax import recipe
from yolos_jax.checkpoints import Meta
from yolos_jax.data.loader import LoadStep, Share, load
from yolos_jax.distributed.processes import Team, place
from yolos_jax.errors import InputError
from yolos_jax.evaluation.evaluator import Evaluator
from yolos_jax.model.yolos import abstract
from yolos_jax.training.keeper import newest, put_aside_best
from yolos_jax.training.optimizer import adamw, schedule_of
from yolos_jax.training.prefetch import Feed, OnDevices
from yolos_jax.training.resume import data_facts, facts_of, refuse_differences
from yolos_jax.training.start import starting_params
from yolos_jax.training.step import TrainState, fresh_state, make_step, replicated, split_over


class Run:
    """The parts of a run, none of which changes while it trains.

    Attributes:
      team: the processes that it runs in.
      plan: which images each step sees.
      total, per_epoch: steps of the run and of an epoch.
      schedule: learning rate of every step.
      evaluator: the validation set's, or None.
      notes: what is worth telling about the data, a sentence each.
      programs: the step compiled for each bucket met so far, by its patches.

    Raises:
      InputError: the recipe, the data and the devices do not fit together.
    """

    def __init__(self, config: Any, mesh: Mesh):
        config = recipe.prepare(config)
        self.config, self.mesh, self.team = config, mesh, Team()
        self.source = recipe.source_of(config, "train")
        self.model = recipe.model_of(config, self.source.num_classes)
        self._check_batch()
        train = config.train
        self.plan = recipe.plan_of(config, self.model, self.source.examples.sizes)
        self.per_epoch = self.plan.steps_per_epoch
        self.total = min(len(self.plan), train.max_steps or len(self.plan))
        self.schedule = schedule_of(config.optimizer, train.epochs, self.per_epoch)
        self.optimizer = adamw(self.schedule, config.optimizer.weight_decay, config.optimizer.clip_norm)
        self._step = make_step(
            abstract(self.model, recipe.compute_of(config, training=True))[0],
            self.optimizer,
            mesh,
            train.images_per_replica,
            config.matcher,
            train.accumulate,
            train.ema,
        )
        self.programs: dict[int, Any] = {}
        self.facts = facts_of(config, self.source)
        self.evaluator = self._evaluator() if config.eval.every_epochs else None
        # Told to the other processes only: a run may go on with another validation set.
        self.validation_facts = {"validation": data_facts(self.evaluator.source)} if self.evaluator else {}
        notes = self.source.notes + (self.evaluator.source.notes if self.evaluator else ())
        self.notes = list(dict.fromkeys(notes))

    def _check_batch(self) -> None:
        train, devices = self.config.train, self.mesh.size
        # Accumulation must leave the groups that cross entropy is normalised over whole.
        share = devices * train.accumulate * (train.images_per_replica if train.accumulate > 1 else 1)
        if train.batch_size % share or train.batch_size % train.images_per_replica:
            raise InputError(
                f"train.batch_size {train.batch_size} must be a multiple of {share} ({devices} device(s), "
                f"train.accumulate {train.accumulate}) and of train.images_per_replica {train.images_per_replica}."
            )

    def _evaluator(self) -> Evaluator:
        config, data = self.config, self.config.data
        val = recipe.source_of(config, "val", self.source.category_ids, self.source.num_classes)
        geometry = recipe.geometry_of(config, self.model)
        options = config.eval.batch_size, data.buckets, data.on_bad_image, data.workers, data.ahead
        query_block = recipe.compute_of(config, training=False).query_block
        return Evaluator(self.model, val, geometry, self.mesh, *options, query_block)

    def begin(self, workdir: Path, accept_differences: bool) -> tuple[TrainState, Meta]:
        """The state to train from, on the devices, and its meta: the newest whole checkpoint's, or fresh.

        The leading process reads or makes it, so the others need neither checkpoints nor starting weights.
        """
        team, ema = self.team, bool(self.config.train.ema)
        params = abstract(self.model)[1]
        like = jax.eval_shape(lambda p: fresh_state(p, self.optimizer, ema), params)
        (state, meta), _ = team.together(
            lambda: self._starting_state(workdir, accept_differences) if team.leads else (like, self.meta(0, []))
        )
        meta = Meta.from_json(team.tell(meta.to_json())[0])
        return place(team.from_leader(state, like), replicated(self.mesh)), meta

    def _starting_state(self, workdir: Path, accept_differences: bool) -> tuple[TrainState, Meta]:
        config, ema, notes = self.config, bool(self.config.train.ema), []

        def refuse(meta: Meta) -> None:
            notes.extend(refuse_differences(meta, self.model, self.facts, accept_differences))

        state, meta, told = newest(workdir, self.optimizer, ema, refuse)
        told += put_aside_best(workdir, meta.step if meta else 0)
        for sentence in told + notes:
            print(sentence)
        if state is None or meta is None:
            params = starting_params(self.model, config.init, config.seed)
            return fresh_state(params, self.optimizer, ema), self.meta(0, [])
        print(f"going on from the checkpoint of step {meta.step} in {workdir}")
        return state, meta

    def describe(self) -> str:
        """What is about to happen: images, devices, steps, buckets, padding."""
        source, plan, team = self.source, self.plan, self.team
        processes = f" in {team.count} processes" if team.count > 1 else ""
        return (
            f"training on {len(source.examples)} images ({source.dropped['crowd']} crowd and {source.dropped['empty']} "
            f"empty boxes left out) of {source.num_classes} classes, {self.mesh.size} device(s){processes}: "
            f"{self.total} steps, {self.per_epoch} in an epoch, which leaves out {plan.dropped} images\n"
            f"{len(plan.edges)} bucket(s) of {', '.join(map(str, plan.edges))} patches; {plan.padding():.2%} of the "
            "first epoch's patches are padding"
        )

    def meta(self, step: int, evaluations: list[dict]) -> Meta:
        """What a checkpoint of this run says about itself."""
        ids = None if self.config.data.categories == "raw" else self.source.category_ids
        extra = self.facts | {"evaluations": list(evaluations)}
        return Meta(self.model, self.source.label_names, step, extra, ids, self.config.model.max_side)

    def feed(self, start: int, cancelled: Callable[[], object]) -> Feed:
        """The batches from step `start` on, until `cancelled`."""
        data = self.config.data
        share = Share(self.team.index, self.team.count)
        work = LoadStep(self.source, self.plan, self.model.patch_size, self.config.model.max_side, share)
        batches = load(work, start, self.total, data.workers, data.ahead)
        return Feed(batches, split_over(self.mesh), cancelled)

    def program_for(self, item: OnDevices) -> Any:
        """The step compiled for the batch's bucket, or None if it has not been."""
        return self.programs.get(item.batch.patches.shape[1])

    def compile(self, state: TrainState, item: OnDevices, say: Callable[[str], object]) -> Any:
        """Compiles the step for the batch's bucket, and says so."""
        tokens, start = item.batch.patches.shape[1], time.perf_counter()
        self.programs[tokens] = self._step.lower(state, item.batch).compile()
        seconds, met, all_of_them = time.perf_counter() - start, len(self.programs), len(self.plan.edges)
        say(f"compiled the step for {tokens} patches in {seconds:.1f} s ({met} of {all_of_them} buckets)")
        return self.programs[tokens]

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows a step."""
        return step % self.config.checkpoint.every_steps == 0 or step == self.total or self.evaluates(step)

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows a step: every so many epochs, and after the last one."""
        every = self.config.eval.every_epochs
        return bool(every) and step > 0 and (step % (every * self.per_epoch) == 0 or step == self.total)
