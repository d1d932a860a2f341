"""wandb, MLflow and Trackio without a network: reads the records of a run that was killed and resumed."""

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from reference_pack import ROOT

from yolos_jax.errors import InputError
from yolos_jax.tasks.sinks import services
from yolos_jax.tasks.sinks.services import check_installed, open_sinks

NAMES = "wandb", "mlflow", "trackio"
CONFIG = {"seed": 3, "train": {"log": ["wandb"], "epochs": 2}, "model": {"mid_pe_size": None}}
# Environment variables that would change where the services write.
OTHERS = "WANDB_PROJECT", "WANDB_DIR", "WANDB_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_DIR"
KILLED = f"""
import os, sys
sys.path[:0] = ["tests/tasks/sinks", "tests/helpers"]
from pathlib import Path
from test_real_services import CONFIG, open_sinks, log
log(open_sinks(Path(sys.argv[1]), 0, sys.argv[2:], CONFIG, print), 1, 7)
os.kill(os.getpid(), {signal.SIGKILL})
"""


def log(sinks, first, last):
    """Logs the loss at every step and an evaluation at every third step."""
    for step in range(first, last):
        sinks.add(step, {"train/total": 1 / step, "train/grad_norm": float("nan")})
        if step % 3 == 0:
            sinks.add(step, {"val/AP": step / 100, "val/APs": -1.0, "AP50/a_dog.1-x": 0.25})


def expected(last):
    """The expected steps and values of every curve."""
    found = {"train/total": {step: 1 / step for step in range(1, last)}}
    found["val/AP"] = {step: step / 100 for step in range(3, last, 3)}
    return found | {"AP50/a_dog.1-x": dict.fromkeys(range(3, last, 3), 0.25)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder and messages of a run that is killed after step 6, resumes after step 4, and ends at step 9."""
    installed = [name for name in NAMES if is_installed(name)]
    if not installed:
        pytest.skip("needs wandb, mlflow or trackio (make test-sinks)")
    folder, said = tmp_path_factory.mktemp("runs") / "my run?#1", []
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in OTHERS:
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "offline")
        for seconds in ("PATIENCE", "QUIET"):  # the first start of MLflow is slow on a busy machine
            patch.setattr(services, seconds, 240)
        for proxy in ("http_proxy", "https_proxy"):
            patch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens on this port
        code = subprocess.run([sys.executable, "-c", KILLED, folder, *installed], cwd=ROOT).returncode
        assert code == -signal.SIGKILL
        sinks = open_sinks(folder, 4, installed, CONFIG | {"seed": 4}, said.append)
        log(sinks, 5, 10)
        sinks.close()
    return SimpleNamespace(folder=folder, said=said)


def is_installed(name):
    try:
        check_installed([name])
    except InputError:
        return False
    return True


def test_logs_have_no_errors_or_warnings(run):
    logs = {path.stem: path.read_text() for path in (run.folder / "sinks").glob("*.log")}
    assert run.said == [] and len(logs) >= 1
    for text in logs.values():
        assert not [word for word in ("rror", "arning", "WARN", "Traceback") if word in text], text


def test_mlflow(run):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow (make test-sinks)")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.folder)
        client = mlflow.MlflowClient("sqlite:///mlflow.db")
        experiment = client.get_experiment_by_name("yolos-jax")
        (found,) = client.search_runs([experiment.experiment_id])
        histories = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    assert (found.info.run_name, found.info.status) == ("my run?#1", "FINISHED")
    # MLflow cannot change a parameter, so it still has the seed of the first start.
    assert found.data.params == {
        "seed": "3", "train.log": "['wandb']", "train.epochs": "2", "model.mid_pe_size": "None"
    }  # fmt: skip
    assert {name: len(history) for name, history in histories.items()} == {k: len(v) for k, v in expected(10).items()}
    assert {name: {one.step: one.value for one in history} for name, history in histories.items()} == expected(10)


def test_trackio(run):
    pytest.importorskip("trackio", reason="needs trackio (make test-sinks)")
    read = "import json; from trackio.sqlite_storage import SQLiteStorage as S; (name,) = S.get_runs('yolos-jax'); "
    read += "print(json.dumps([name, S.get_run_config('yolos-jax', name), S.get_logs('yolos-jax', name)]))"
    env = os.environ | {"TRACKIO_DIR": str(run.folder / "trackio")}
    name, config, logs = json.loads(subprocess.check_output([sys.executable, "-c", read], env=env))
    assert name == "my run?#1" and config["train"] == CONFIG["train"] and config["model"] == CONFIG["model"]
    points = [(key, one["step"], one[key]) for one in logs for key in one if key not in ("step", "timestamp")]
    assert sorted(points) == sorted((key, *point) for key, curve in expected(10).items() for point in curve.items())


def records(path):
    """The records in a .wandb file, which uses LevelDB's log format with an additional 7-byte header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, found, part = path.read_bytes(), 7, [], b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])  # these follow a checksum
        if left < 7 or kind == 0:
            at += left
            continue
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a complete record, or the last part of one
            found.append(Record.FromString(part))
            part = b""
    return found


def test_wandb(run):
    pytest.importorskip("wandb", reason="needs wandb (make test-sinks)")
    files = [folder / f"run-{run_id_of(run)}.wandb" for folder in sorted((run.folder / "wandb").glob("offline-run-*"))]
    parts = [records(file) for file in files]
    assert len(files) == 2
    for part in parts:
        (start,) = [record.run for record in part if record.WhichOneof("record_type") == "run"]
        assert (start.run_id, start.project, start.display_name) == (run_id_of(run), "yolos-jax", "my run?#1")
        config = {one.key: json.loads(one.value_json) for one in start.config.update}
        assert config["train"] == CONFIG["train"]
    found = {name: {} for name in expected(10)}
    for record in parts[0] + parts[1]:
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for name in found.keys() & row.keys():
            assert row["step"] == row["_step"] and row["step"] not in found[name]
            found[name][row["step"]] = row[name]
    assert found == expected(10)
    codes = [record.exit.exit_code for part in parts for record in part if record.HasField("exit")]
    assert codes == [1, 0]
    listed = subprocess.run(
        [Path(sys.executable).parent / "wandb", "sync", "--dry-run"], cwd=run.folder, capture_output=True, text=True
    )
    assert "Would sync 2 run(s)" in listed.stdout + listed.stderr


def run_id_of(run):
    return json.loads((run.folder / "sinks" / "run.json").read_text())["id"]
