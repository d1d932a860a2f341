"""Runs every command and Python snippet in the documentation, except those listed with a reason in `NOT_RUN`.

The commands and snippets of a page run in order, in this process, in a separate folder that contains small stand-ins
for all files they use (`small_world`). All variants have heads of width 2 and 10 DET tokens. Recipes resize images to
32 and 48 pixels and stop after one step, with batches of 8 images, one bucket, the matcher on the device, no data
workers and no curves. `STAND_INS` fills in placeholders that readers fill in themselves; the flags in `ADDED` make a
command faster.

For commands that are not run, the program still parses the flags. A command in backticks is run if it is complete (many
only mention a flag) and uses a combination of flags that is in no code block.
"""

import itertools
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
import small_world
from compiled_once import compiled_once
from documented import PYTHON, SHELL, Shown, is_test, pages, shown_on
from reference_pack import ROOT
from typed import PROJECT, SCRIPTS, code_of, refusal_of

SHOWN = {page: shown_on(page, text) for page, text in pages().items()}

# Replacements for placeholders and for the reader's own files.
STAND_INS = {
    r"INPUT\.\.\.|PHOTOS": "photos",
    r"(?<=yolos-convert )SOURCE": "hustvl/yolos-small",
    r"\bDATA\b": "data/mine",
    r"--out DIR": "--out out/dir",
    r"gs://": "shared://",
    r"\.pth": ".safetensors",  # .pth needs PyTorch
}
# Replaces `...` in commands without a recipe.
REST = "--config yolos_s --config.init=hustvl/yolos-small --config.data.root=data/coco"
ADDED = {
    "yolos-analyze attention": "--limit 1 --head 0",
    "python -m benchmarks.augmentation": "--images 8 --pairs 1",
    "python -m benchmarks.padding": "--images 64",
}


class Left(NamedTuple):
    """Why a command is not run, and a test that covers it, if there is one."""

    reason: str
    test: str = ""


# Keys are patterns of commands or snippets; test paths are relative to `tests/`.
NOT_RUN = {
    r"^pip install": Left("downloads packages; the extras are looked up in pyproject.toml"),
    r"^make": Left(
        "sets up environments, trains for minutes or runs these tests; only the target is looked up in the Makefile"
    ),
    r"^NPROC|ruff": Left("runs these tests, or reformats the code"),
    r"^hf auth": Left("asks for a Hugging Face token"),
    r"--push": Left("needs the hub", "weights/test_sharing.py::test_shares_run_with_working_card"),
    r"train\.log=\w": Left("needs wandb, mlflow or trackio", "tasks/sinks/test_real_services.py::test_wandb"),
    r"^docker": Left("needs Docker"),
    r"^srun": Left("needs Slurm", "distributed/test_launch.py::test_detects_launchers"),
    r"^\[ \$\? = 143": Left("needs Slurm"),
    r"--coordinator=": Left("needs two hosts", "distributed/test_processes.py::test_training_matches_a_single_process"),
    r"^CUDA|yolos_b|^yolos-train \.\.\. --config\.(model|matcher)": Left("needs several GPUs or a fast one"),
    r"backbone_lr": Left(
        "is slow to compile", "training/test_rates.py::test_clipping_decay_and_block_rates_match_pytorch"
    ),
    r"^yolos-pretrain|--config deit_s ": Left(
        "is covered by a separate test", "programs/test_pretrain.py::test_programs"
    ),
    r"datasets\.digits": Left(
        "is covered by a separate test", "datasets/test_digits.py::test_command_line_does_not_import_jax"
    ),
    r"^yolos-page": Left("starts a server", "tools/page/test_browser.py::test_upload_click_layer_and_head"),
    r"^(yolos-export|python with_onnx).*--onnx": Left(
        "needs the extra onnx", "tools/exporting/test_onnx.py::test_onnx"
    ),
    r"^import openvino": Left("needs OpenVINO", "tools/exporting/test_onnx.py::test_openvino"),
    r"^trtexec": Left("needs an NVIDIA GPU and TensorRT"),
    r"uvicorn|^curl": Left("starts a server, and sends it a request", "examples/test_examples.py::test_server"),
    r"examples/track": Left("needs trackers", "examples/test_examples.py::test_tracking"),
    r"examples/slice_large": Left("needs sahi", "examples/test_examples.py::test_slices"),
    r'VARIANTS\["s"\]': Left("is covered by a separate test", "model/test_idioms.py::test_docs_example"),
    r"benchmarks\.compile_only": Left("needs the jax packages for CUDA or TPUs"),
    r"benchmarks\.evaluation": Left(
        "takes minutes", "parity/test_benchmark_peers.py::test_evaluation_of_both_implementations"
    ),
    r"benchmarks\.finetuning ": Left("takes hours", "benchmarks/test_finetuning_benchmark.py::test_run_and_table"),
    r"benchmarks\.finetuning_peer": Left(
        "takes hours", "parity/test_finetuning_peer.py::test_implementations_take_the_same_steps"
    ),
    r"benchmarks\.(loader|records|layouts|first_box)|workers 2": Left("starts processes that each take seconds"),
    r"benchmarks\.model (?!--workloads --)": Left(
        "takes minutes", "benchmarks/test_model_benchmark.py::test_complete_benchmark"
    ),
    r"benchmarks\.mutated_inputs": Left(
        "takes an hour", "benchmarks/test_mutated_inputs.py::test_damaged_inputs_are_read_or_rejected"
    ),
    r"benchmarks\.pretraining": Left("takes hours"),
    r"benchmarks\.scoring": Left(
        "needs faster-coco-eval", "evaluation/test_backends.py::test_backends_compute_the_same_metrics"
    ),
}


def excepted(shown: Shown) -> str | None:
    """The first key of `NOT_RUN` that matches a command or snippet, if any."""
    return next((key for key in NOT_RUN if re.search(key, shown.text, re.MULTILINE)), None)


PAGE = r"""
Type `yolos-train --config x` or `yolos-tiny`:

```sh
make demo   # trains
A=1 yolos-eval --plots \
    --nms 0.7           # twice

```

```python
x = 1
```
"""


def test_commands_of_a_page():
    found = [(shown.line, shown.text, shown.inline) for shown in shown_on("page", PAGE)]
    assert found == [
        (2, "yolos-train --config x", True), (5, "make demo", False), (6, "A=1 yolos-eval --plots --nms 0.7", False),
        (12, "x = 1\n", False),
    ]  # fmt: skip
    with pytest.raises(AssertionError, match="page:2: specify the block's language"):
        shown_on("page", "```\nmake demo\n```\n")


def test_every_exception_is_used_and_its_test_exists():
    used = {excepted(shown) for every in SHOWN.values() for shown in every}
    assert used - {None} == set(NOT_RUN)
    for key, left in NOT_RUN.items():
        assert left.reason and (not left.test or is_test(f"tests/{left.test}")), key


def flags_of(shown: Shown) -> tuple[str, ...]:
    """A command's program and the names of its flags, without settings."""
    words = shown.text.split()
    flags = (word.partition("=")[0] for word in words if word.startswith("--"))
    return words[0], *sorted(flag for flag in flags if "." not in flag)


FENCED = {flags_of(shown) for every in SHOWN.values() for shown in every if shown.kind == SHELL and not shown.inline}


def words_of(shown: Shown) -> list[str]:
    """The words of a command with stand-ins and added flags, without environment variables."""
    text = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", shown.text)
    for placeholder, value in STAND_INS.items():
        text = re.sub(placeholder, value, text)
    rest = "" if "--config " in text else REST
    if rest and text.startswith("yolos-train"):
        rest += f" --workdir runs/new-{shown.line}"
    text = text.replace(" ... ", f" {rest} ").removesuffix(" ...")
    added = next((flags for program, flags in ADDED.items() if text.startswith(program)), "")
    return shlex.split(f"{text} {added}")


def check_left(shown: Shown, words: list[str]) -> None:
    """Checks packages, make targets and the flags of this package's programs in a command that is not run."""
    if words[:2] == ["pip", "install"]:
        extras = re.findall(r"(?:yolos-jax|\.)\[([\w,-]+)\]", shown.text)
        assert {name for each in extras for name in each.split(",")} <= PROJECT["optional-dependencies"].keys(), shown
    if words[0] == "make":
        steps = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert steps.returncode == 0, f"{shown}: {steps.stderr}"
        program = steps.stdout.splitlines()[-1] if "-only" in shown.text else ""
        words = ["python", *shlex.split(program)[1:]] if program else []
    while words and words[0] not in SCRIPTS and words[:2] != ["python", "-m"]:
        words = words[1:]  # drops a prefix such as `docker run` or `srun`
    refusal = refusal_of(words) if words else ""
    assert shown.inline or not refusal, f"{shown}: {refusal}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of stand-ins. Models are narrow, and each program is compiled once for all pages."""
    with pytest.MonkeyPatch.context() as patch, compiled_once():
        folder = tmp_path_factory.mktemp("world")
        small_world.narrow(patch)
        small_world.on_one_device(patch)
        small_world.offline(patch, folder)
        precision = jax.config.jax_default_matmul_precision
        yield small_world.make(folder)
        jax.config.update("jax_default_matmul_precision", precision)


def make_room(words: list[str], here: Path, written: set[str]) -> None:
    """Removes stand-ins at the paths that a command writes to, unless an earlier command on the page wrote them."""
    for flag, place in itertools.pairwise(words):
        if flag in ("--out", "--workdir") and place not in written:
            written.add(place)
            shutil.rmtree(here / place, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, every in SHOWN.items() if every])
def test_commands_run(page, world, tmp_path, monkeypatch):
    here = Path(shutil.copytree(world, tmp_path / "here"))
    monkeypatch.chdir(here)
    namespace, written = {"__name__": "__main__"}, set()
    for shown in SHOWN[page]:
        if shown.kind == PYTHON:
            if excepted(shown) is None:
                exec(compile(shown.text, f"{page}:{shown.line}", "exec"), namespace)
            continue
        words = words_of(shown)
        if excepted(shown) is not None:
            check_left(shown, words)
            continue
        refusal = refusal_of(words)
        if shown.inline and (refusal or flags_of(shown) in FENCED):
            continue
        assert not refusal, f"{shown}: {refusal}"
        make_room(words, here, written)
        assert code_of(words) == 0, shown
