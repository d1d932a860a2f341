"""The notebooks in docs/ run from top to bottom, show correct results, and leave no files behind."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_devices import cpu_devices

from yolos_jax.training import checkpoint_files

DOCS = Path(__file__).resolve().parent.parent / "docs"
NAMES = ("train_digits", "detect", "examine")
# Every cell runs unchanged, except that the models train on less data and for fewer epochs.
SHORTER = {
    "train_digits": {
        "train=6000, val=300": "train=800, val=60",
        "config.train.epochs = 10\n": "config.train.epochs = 3\nconfig.train.log_every = 10\n",
        "learning_rate = 7e-4": "learning_rate = 5e-4",  # because batches are half as large
        "images_per_replica = 16\n": "images_per_replica = 8\n",
        '"train": 800, "val": 100': '"train": 64, "val": 16',
        "epochs=8, log_every=25": "epochs=2, log_every=2",
    }
}


def code_of(name: str) -> list[dict[str, Any]]:
    """The code cells of a notebook."""
    return [cell for cell in json.loads((DOCS / f"{name}.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]


def execute(name: str) -> tuple[dict[str, Any], list[Any]]:
    """Executes a notebook as Jupyter does; returns its variables and the value of each cell's last expression."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shown: list[Any] = []
    sources = ["".join(cell["source"]) for cell in code_of(name)]
    for longer, shorter in SHORTER.get(name, {}).items():
        assert sum(longer in source for source in sources) == 1
        sources = [source.replace(longer, shorter) for source in sources]
    for n, source in enumerate(sources, 1):
        body = ast.parse(source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else ast.Expr(ast.Constant(None, lineno=1, col_offset=0))
        exec(compile(ast.Module(body, []), f"cell {n}", "exec"), namespace)
        shown.append(eval(compile(ast.Expression(last.value), f"cell {n}", "eval"), namespace))
    return namespace, shown


def check_train_digits(variables: dict[str, Any], shown: list[Any]) -> None:
    """The loss decreased, all images were scored, and both runs took the expected number of steps."""
    total = [line["total"] for line in variables["lines"]]
    assert np.isfinite(total).all()
    assert np.mean(total[-3:]) < 0.8 * total[0]  # each is the mean of 10 steps; the ratio is usually 0.65 to 0.7
    np.testing.assert_allclose(variables["seen"].attention.sum(-1), 1, rtol=1e-5)
    metrics = variables["evaluation"].metrics
    assert len(metrics) == 12 and 0 < metrics["AP"] <= metrics["AP50"] <= 1
    # Results in COCO format list every query of every image.
    assert len(variables["evaluation"].results) == 60 * variables["config"].model.det_tokens
    assert len(variables["found"]) == 60
    assert sum(hasattr(value, "_repr_png_") for value in shown) == 5 and shown[-1].size == (768, 256)
    # Fine-tuning on 64 images that the notebook draws: two epochs in batches of 16, from the first run's weights.
    assert variables["tuned"].step == 8 and len(variables["shapes"]) == 2
    assert 0 <= variables["own_metrics"]["AP"] <= variables["own_metrics"]["AP50"] <= 1
    assert variables["outcome"].step == variables["config"].train.epochs * 800 // variables["config"].train.batch_size


def check_detect(variables: dict[str, Any], shown: list[Any]) -> None:
    """The cells' results match the notebook's text."""
    found, detector = variables["found"], variables["detector"]
    assert json.loads(variables["text"]) == found.to_dict()
    assert [True] * 5 in shown  # the boxes are the same for all five ways to pass an image
    assert len(variables["kinds"][0]) == detector.config.det_tokens
    (counts,) = [value for value in shown if isinstance(value, dict)]
    assert counts[0.0] == detector.config.det_tokens and sorted(counts.values(), reverse=True) == [*counts.values()]
    (errors,) = [value for value in shown if isinstance(value, tuple) and isinstance(value[0], float)]
    assert max(errors) < 1e-4  # differences between the outputs of `forward` and of the network from `load`
    images = [value for value in shown if hasattr(value, "_repr_png_")]
    assert [image.size for image in images] == [(512, 512), (256, 256)] and len(images[1].getcolors(2**16)) > 100
    weights, layers = variables["weights"], variables["out"].attention
    assert weights.shape == (8, 8) and weights.min() >= 0
    np.testing.assert_allclose(layers.sum(-1), 1, rtol=1e-5)


def check_examine(variables: dict[str, Any], shown: list[Any]) -> None:
    """Attention sums to 1, the best token has the detector's box, and the tables cover all images and correlations."""
    seen, detector = variables["seen"], variables["detector"]
    for weights in (seen.attention, seen.rollout):
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    first = detector(variables["paths"][0], threshold=0)
    np.testing.assert_allclose(seen.boxes[variables["best"]], first.boxes[0], atol=1e-3)
    (first_tokens,) = [value for value in shown if isinstance(value, list)]
    assert [name for _, name, _ in first_tokens] == first.names[:3]
    entries = json.loads((variables["folder"] / "tokens/predictions.json").read_text())
    assert len(entries) == 40 * detector.config.det_tokens == 40 * len({entry["token"] for entry in entries})
    readings = variables["found"].rows()
    assert len(readings) == 5 * 4 and all(-1 <= row["mean"] <= 1 and row["images"] == 40 for row in readings)
    assert sum(hasattr(value, "_repr_png_") for value in shown) == 3


def run(name: str, folder: Path, ready: Path | None = None) -> Path:
    """Runs a notebook in a process with one device; returns a copy of the checkpoint folder that it used.

    The checkpoint folder `ready`, if given, is copied to where `make demo` writes its run.
    """
    work, temporary, kept = folder / "work", folder / "temporary", folder / "kept"
    temporary.mkdir(parents=True)
    shutil.copytree(ready, work / "demo/run") if ready else work.mkdir()
    before = files(DOCS, work)
    environment = cpu_devices()
    if ready is None:  # the notebook trains, so full optimization is worth the compilation time
        environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    environment |= {"PYTHONPATH": f"{DOCS.parent}:{DOCS.parent / 'tests' / 'helpers'}", "TMPDIR": str(temporary)}
    environment |= {"HF_HUB_OFFLINE": "1"}
    # As in `make demo`: keeping freed memory for the next step saves a third of the time.
    environment |= {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
    environment |= {"MALLOC_TOP_PAD_": "67108864"}
    command = [sys.executable, __file__, name, str(kept)]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("checked\n")
    assert files(DOCS, work) == before and not [*temporary.iterdir()]
    return kept


def files(*folders: Path) -> list[tuple[Path, bytes]]:
    return [(path, path.read_bytes()) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoint folder that train_digits.ipynb produces when run from top to bottom."""
    return run("train_digits", tmp_path_factory.mktemp("train_digits"))


@pytest.mark.slow
def test_train_digits_runs(trained):
    assert checkpoint_files.steps(trained)


@pytest.mark.slow
def test_detect_runs(trained, tmp_path):
    """The notebook uses the checkpoint from train_digits.ipynb; otherwise it would train a model first."""
    assert checkpoint_files.steps(run("detect", tmp_path, trained)) == checkpoint_files.steps(trained)


@pytest.mark.slow
def test_examine_runs(trained, tmp_path):
    assert checkpoint_files.steps(run("examine", tmp_path, trained)) == checkpoint_files.steps(trained)


@pytest.mark.parametrize("name", NAMES)
def test_stored_notebooks_are_portable(name):
    """Each notebook is valid and small, has outputs, and contains no paths from the author's machine."""
    text = (DOCS / f"{name}.ipynb").read_text()
    notebook = json.loads(text)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3" and len(text) < 300_000
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (DOCS / link).exists(), link
    assert not re.search(r"/(home|root|work|Users)/", text)
    for cell in code_of(name):
        assert cell["metadata"] == {} and not [line for line in cell["source"] if re.match(r"\s*[%!]", line)]
        assert all(output["output_type"] != "error" for output in cell["outputs"])
        last = ast.parse("".join(cell["source"])).body[-1]
        assert bool(cell["outputs"]) >= isinstance(last, ast.Expr), "".join(cell["source"])


def test_stored_training_results():
    """The stored AP50 of both runs is above 0.8."""
    texts = [
        "".join(output["data"]["text/plain"])
        for cell in code_of("train_digits")
        for output in cell["outputs"]
        if "AP50" in str(output.get("data", {}).get("text/plain", ""))
    ]
    metrics = [ast.literal_eval(text) for text in texts]
    assert len(metrics) == 2 and min(each["AP50"] for each in metrics) > 0.8


if __name__ == "__main__":
    found, values = execute(sys.argv[1])
    {"train_digits": check_train_digits, "detect": check_detect, "examine": check_examine}[sys.argv[1]](found, values)
    shutil.copytree(found["run"] if "run" in found else found["folder"] / "run", sys.argv[2])
    print("checked")
