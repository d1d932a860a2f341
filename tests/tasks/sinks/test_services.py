"""Tests sending metrics to services that work, die, hang or flood their output, also after a run was killed.

Shell scripts stand in for the services.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from micro_run import micro_config
from reference_pack import ROOT

from yolos_jax.config.reader import read_recipe
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.errors import ALIASES, InputError
from yolos_jax.tasks.base import options_of
from yolos_jax.tasks.sinks import child, services
from yolos_jax.tasks.sinks.services import Service, Sinks, check_installed, finish, open_sinks, run_id, run_name


@pytest.fixture
def said():
    return []


def shell(tmp_path, said, script, name="service"):
    return Service(name, ["/bin/sh", "-c", script], tmp_path / f"{name}.log", said.append)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_service_receives_every_defined_value_in_order(tmp_path, said):
    first, second = (shell(tmp_path, said, f"cat > {tmp_path}/{name}", name) for name in "ab")
    sinks = Sinks(None, [first, second])
    for step in range(1, 2001):
        sinks.add(step, {"train/total": 1 / step, "val/AP": -1.0, "val/loss": float("nan"), "train/norm": float("inf")})
    sinks.close()
    found = lines_of(tmp_path / "a")
    assert [(one["step"], one["values"]) for one in found[:-1]] == [
        (step, {"train/total": 1 / step}) for step in range(1, 2001)
    ]
    assert found[-1] == {"end": True} and said == []
    times = [one["time"] for one in found[:-1]]
    assert times == sorted(times) and time.time() - 60 < times[0] and times[-1] <= time.time()
    assert [one.get("step") for one in lines_of(tmp_path / "b")] == [one.get("step") for one in found]


def test_dead_service_is_reported_once_with_the_reason(tmp_path, said):
    (tmp_path / "service.log").write_text("a message from an earlier run\n")
    service = shell(tmp_path, said, "read line; echo starting; echo 'the key\033[1m is wrong' >&2; echo; exit 3")
    silent = shell(tmp_path, said, "exit 4", "silent")
    for _ in range(2):
        service.send({"step": 1})
        service.process.wait(20)
        service.send({"step": 2})
    finish([service, silent])
    assert said == [
        "note: service exited unexpectedly (the key\\x1b[1m is wrong); the run continues without it",
        "note: silent has failed (exit code 4); its last points may be missing",
    ]


def test_service_that_fails_at_the_end_is_reported(tmp_path, said):
    service = shell(tmp_path, said, "cat > /dev/null; echo lost the connection >&2; exit 1")
    finish([service])
    assert said == ["note: service has failed (lost the connection); its last points may be missing"]


def test_hanging_service_does_not_block_or_outlive_the_run(tmp_path, said, monkeypatch):
    monkeypatch.setattr(services, "PATIENCE", 0.4)
    monkeypatch.setattr(services, "QUIET", 0.1)
    hanging = shell(tmp_path, said, f"sleep 1000 & echo $! > {tmp_path}/pid; wait", "hanging")
    slow = shell(tmp_path, said, f"sleep 0.1; cat > {tmp_path}/slow", "slow")
    until((tmp_path / "pid").exists)
    start = time.monotonic()
    line = {"text": "x" * 2**16}
    for _ in range(80):
        hanging.send(line)
    slow.send(line)
    assert time.monotonic() - start < 5 and 0 < hanging.dropped < 20
    # Ctrl-C does not reach a separate session.
    assert os.getsid(hanging.process.pid) == hanging.process.pid != os.getsid(0)
    finish([hanging, slow])
    assert said[0].startswith("waiting up to 0 s for hanging")
    assert said[1:] == [
        "note: hanging did not finish within 0 s and was stopped; its last points may be missing",
        f"note: hanging was too slow, so {hanging.dropped} lines of metrics were not sent to it",
    ]
    assert lines_of(tmp_path / "slow") == [line, {"end": True}]
    until(lambda: is_gone(int((tmp_path / "pid").read_text())))


def is_gone(pid):
    """Whether a process has exited, even if it is still a zombie."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_service_that_floods_its_output_receives_everything(tmp_path, said):
    script = f"head -c 3000000 /dev/zero | tr '\\0' x >&2; cat > {tmp_path}/found; exit 5"
    service = shell(tmp_path, said, script)
    for step in range(3):
        service.send({"step": step})
    finish([service])
    assert [one.get("step") for one in lines_of(tmp_path / "found")] == [0, 1, 2, None]
    assert said == [f"note: service has failed ({'x' * 200}); its last points may be missing"]


KILLED = """
import os, signal, sys
from pathlib import Path
from yolos_jax.tasks.sinks.services import Service
folder = Path(sys.argv[1])
script = f"cat > {folder}/found; sleep 0.2; echo ended > {folder}/end"
service = Service("s", ["/bin/sh", "-c", script], folder / "log", print)
for step in range(3):
    service.send({"step": step})
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
os.killpg(0, int(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_service_exits_by_itself_after_the_run_was_killed(tmp_path, number):
    """Ctrl-C in a terminal sends SIGINT to the whole process group."""
    run = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, str(int(number))],
        cwd=ROOT,
        start_new_session=True,
        capture_output=True,
    )
    assert run.returncode == -number
    until((tmp_path / "end").exists)
    assert [one["step"] for one in lines_of(tmp_path / "found")] == [0, 1, 2]


def test_service_waits_for_the_process_of_a_killed_run(tmp_path, said, monkeypatch):
    """A service's process holds the lock from its start until it exits."""
    earlier = shell(tmp_path, said, "cat > /dev/null")
    with earlier.log.open("a") as log, earlier.log.open("a") as other:
        monkeypatch.setattr(child, "sys", SimpleNamespace(stderr=log))
        monkeypatch.setattr(child, "time", SimpleNamespace(sleep=lambda seconds: finish([earlier])))
        with pytest.raises(BlockingIOError):
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.wait_for_earlier()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Client:
    """A client that records what it receives."""

    def __init__(self, run):
        self.run, self.points, self.complete = run, [], None

    def log(self, step, seconds, values):
        self.points.append((step, values))

    def finish(self, complete):
        self.complete = complete


def served(folder, *messages, cut=b""):
    """Returns the client after a run has written these messages; `cut` is an incomplete last line."""
    clients = []

    def connect(run):
        clients.append(Client(run))
        return clients[0]

    lines = [json.dumps(each).encode() + b"\n" for each in ({"id": "x", "folder": str(folder)}, *messages)]
    child.serve([*lines, cut] if cut else lines, connect, "newest.json")
    return clients[0]


def point(step, **values):
    return {"step": step, "time": 0.0, "values": values}


def test_resumed_run_sends_nothing_twice(tmp_path):
    first = served(tmp_path, point(1, a=1.0), point(2, a=2.0), point(3, a=3.0), cut=b'{"step": 4, "val')
    assert first.run["id"] == "x" and first.complete is False
    assert first.points == [(1, {"a": 1.0}), (2, {"a": 2.0}), (3, {"a": 3.0})]
    again = served(
        tmp_path, point(2, a=2.0), point(2, b=2.5), point(3, a=3.0), point(3, b=3.5), point(4, a=4.0), {"end": 1}
    )
    assert again.points == [(3, {"b": 3.5}), (4, {"a": 4.0})] and again.complete is True
    assert served(tmp_path, point(4, a=4.0, b=4.5), point(4, b=4.5)).points == [(4, {"b": 4.5})]


def test_flattens_the_recipe():
    assert child.flat({"seed": 0, "a": {"b": {"c": [1, 2]}, "d": None}}) == {"seed": 0, "a.b.c": [1, 2], "a.d": None}


STAND_IN = """
import os, sys
if os.environ.get("BREAK"):
    raise OSError("no\\nnetwork")
class Run:
    def log(self, values, step):
        print("log", step, values, sys.stdin.read(), os.getcwd(), flush=True)
    def finish(self):
        print("finish", flush=True)
def init(project, name, config, resume, **_):
    print("init", project, name, config, resume, os.environ["TRACKIO_DIR"], os.environ["HF_HUB_OFFLINE"], flush=True)
    return Run()
"""


@pytest.mark.parametrize("broken", ["", "1"])
def test_child_program(tmp_path, said, monkeypatch, capsys, broken):
    """Uses a stand-in for trackio; a folder named `trackio` in the current directory must not shadow it."""
    for name in ("modules", "elsewhere/trackio", "run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "modules" / "trackio.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setenv("BREAK", broken)
    sinks = open_sinks(tmp_path / "run", 0, ("trackio", "trackio"), {"seed": 3}, said.append)
    sinks.add(1, {"train/total": 0.5})
    sinks.close()
    log = (tmp_path / "run" / "sinks" / "trackio.log").read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == [
        f"sending metrics to trackio; its messages are in {tmp_path}/run/sinks/trackio.log"
    ]
    if broken:
        assert said in (
            ["note: trackio exited unexpectedly (OSError: no network); the run continues without it"],
            ["note: trackio has failed (OSError: no network); its last points may be missing"],
        )
        return
    assert log == [
        f"init yolos-jax run {{'seed': 3}} allow {tmp_path}/run/trackio 1",
        f"log 1 {{'train/total': 0.5}}  {tmp_path}/elsewhere",
        "finish",
    ]
    assert said == [] and not (tmp_path / "run" / "tensorboard").exists()


def test_run_id_does_not_change(tmp_path):
    found = run_id(tmp_path)
    assert run_id(tmp_path) == found != run_id(tmp_path / "other") and len(found) == 8
    (tmp_path / "sinks" / "run.json").write_text("[]")
    with pytest.raises(InputError, match=r"run.json is corrupted; remove the folder"):
        run_id(tmp_path)


def test_run_name_is_the_name_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    assert run_name(tmp_path / "a" / ".." / "a") == "a"
    monkeypatch.setitem(ALIASES, str(tmp_path), "gs://bucket/far")
    assert run_name(tmp_path) == "far"


def test_rejects_a_service_that_is_not_installed_before_the_run(tmp_path, monkeypatch):
    (tmp_path / "no_service").mkdir()  # Python finds this folder as a namespace package
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"train.log includes no_service, .* pip install 'yolos-jax\[no_service\]'"):
        check_installed(["tensorboard", "no_service"])
    monkeypatch.setattr(services.importlib.util, "find_spec", lambda name: None)
    check_installed(["tensorboard"])
    config = read_recipe(micro_config(tmp_path, **{"train.log": ("wandb",)}), DetectionConfig)
    with pytest.raises(InputError, match=r"train.log includes wandb, .* pip install 'yolos-jax\[wandb\]'"):
        options_of(config)
