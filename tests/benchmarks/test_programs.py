"""The benchmarks compile the same programs as `train.py` and `Detector`: the same functions for the same shapes."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from compiled_once import STEP, compiled_once
from micro_run import micro_data

from benchmarks import compile_only, ours
from benchmarks.cases import Case, inputs_of, params_of
from benchmarks.common import recipe_of
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.inference.detector import Detector
from yolos_jax.model.config import VARIANTS, YolosConfig
from yolos_jax.tasks import recipe
from yolos_jax.tasks.base import options_of
from yolos_jax.tasks.detection import DetectionTask
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.run import open_run

MICRO = YolosConfig(width=16, depth=2, heads=2, det_tokens=10, num_classes=91, init_pe_size=(64, 64))
PATCHES, OBJECTS = 20, 7  # for an image of 64 x 80 pixels


class Program(NamedTuple):
    """A function to compile, and its arguments."""

    jitted: Any
    arguments: Any  # shapes and dtypes
    precision: str | None  # jax's default matmul precision

    @classmethod
    def of(cls, jitted: Any, arguments: Any) -> "Program":
        shapes = jax.tree.map(lambda x: (np.shape(x), np.dtype(x.dtype)), tuple(arguments))
        return cls(jitted, shapes, jax.config.jax_default_matmul_precision)


@pytest.fixture(autouse=True)
def micro(monkeypatch):
    monkeypatch.setitem(VARIANTS, "ti", MICRO)
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


def measured(monkeypatch, work: str, dtype: str, matcher: str) -> tuple[Program, ours.Ours]:
    """The program that `benchmarks.model` measures."""
    found = []

    def keep(program, compute, device, arguments):
        found.append(Program.of(program, arguments))
        return None, 0.0, ""

    case = Case("ti", 64, 80, 1, dtype)
    made = ours.Ours(case, params_of(case), inputs_of(case), jax.devices()[0], matcher)
    with monkeypatch.context() as patch:
        patch.setattr(ours, "_compiled", keep)
        made.work(work)
    return found[0], made


def compiled_only(program: str, dtype: str, matcher: str) -> Program:
    """The program that `benchmarks.compile_only` compiles."""
    objects = OBJECTS if program == "step" else 0
    case = compile_only.Case("h100", 1, "yolos_ti", program, dtype, False, matcher, 1, "", PATCHES, objects)
    jitted, shapes, _ = compile_only.made(case, jax.devices()[:1])
    return Program.of(jitted, shapes)


def trained(folder, dtype: str, matcher: str, batch) -> Program:
    """The program of a training run with the variant's recipe, for a batch with these shapes."""
    config = recipe_of("yolos_ti")
    config.init, config.matcher, config.precision = "from_nothing", matcher, dtype
    config.data.update(root=str(micro_data(folder / "data")), workers=0, max_images=1, buckets=1)
    config.train.update(batch_size=1, images_per_replica=1, curves=False)
    config.eval.every_epochs = 0
    prepared = recipe.prepare(config, DetectionConfig)
    options, devices = options_of(prepared), jax.devices()[:1]
    with open_run(lambda mesh: DetectionTask(prepared, mesh), folder / "run", options, devices) as run:
        return Program.of(run.step._step, (run.progress.state, batch))


@pytest.mark.parametrize("dtype, matcher", [("float32", "host"), ("bfloat16", "device")])
def test_step_is_the_same_as_in_training(tmp_path, monkeypatch, dtype, matcher):
    with compiled_once() as programs:
        found, made = measured(monkeypatch, "step", dtype, matcher)
        assert compiled_only("step", dtype, matcher) == found
        assert trained(tmp_path, dtype, matcher, made.batch) == found
    assert [name for name, _ in programs] == [STEP] and found.precision == "float32"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_pass_is_the_same_as_in_detector(monkeypatch, dtype):
    with compiled_once() as programs:
        found, made = measured(monkeypatch, "forward", dtype, "device")
        detector = Detector(made.params, Meta(MICRO, {i: str(i) for i in range(91)}), precision=dtype)
        arguments = detector.params, made.batch.patches, made.batch.grid, np.ones((1, 2), np.float32)
        assert detector._detect is found.jitted and Program.of(detector._detect, arguments) == found
        assert compiled_only("forward", dtype, "").jitted is found.jitted
    assert [name for name, _ in programs] == ["detect"]
