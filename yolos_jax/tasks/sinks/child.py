"""A program that sends a run's metrics to one service. A run starts it as `python -P child.py wandb`.

It reads lines of JSON: a description of the run, then points of its curves, and `{"end": true}` unless the run was
killed. It imports nothing from this package, so it starts quickly and does not need the package on its path.
"""

import contextlib
import fcntl
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PROJECT = "yolos-jax"  # default name of the project; environment variables can override it
Values = Mapping[str, float]


class Wandb:
    """Weights & Biases."""

    def __init__(self, run: Mapping[str, Any]):
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=os.environ.get("WANDB_DIR", run["folder"]),
            name=os.environ.get("WANDB_NAME", run["name"]),
            id=run["id"],
            resume="allow",
            config=run["config"],
            allow_val_change=True,
            settings=wandb.Settings(console="off"),
        )
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")
        self.first = self.run.step  # an online run resumes after its newest step, whose evaluation may be missing

    def log(self, step: int, seconds: float, values: Values) -> None:
        self.run.log({"step": step, **values}, step=max(step, self.first))

    def finish(self, complete: bool) -> None:
        self.run.finish(exit_code=0 if complete else 1)


class Mlflow:
    """MLflow; by default, with a database in the run's folder."""

    def __init__(self, run: Mapping[str, Any]):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self.Metric = Metric
        here = not os.environ.get("MLFLOW_TRACKING_URI")
        if here:
            os.chdir(run["folder"])  # a path may contain characters that are not valid in a database URL
        self.client = MlflowClient("sqlite:///mlflow.db" if here else None)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        artifacts = Path(run["folder"], "mlflow").as_uri() if here else None
        number = experiment.experiment_id if experiment else self.client.create_experiment(name, artifacts)
        found = self.client.search_runs([number], f"tags.`{PROJECT}` = '{run['id']}'")
        if found:
            self.run = found[0].info.run_id
            self.client.update_run(self.run, "RUNNING")
        else:
            self.run = self.client.create_run(number, tags={PROJECT: run["id"]}, run_name=run["name"]).info.run_id
            self._send(100, params=[Param(key, str(value)) for key, value in flat(run["config"]).items()])

    def log(self, step: int, seconds: float, values: Values) -> None:
        # MLflow limits names to 250 characters.
        metrics = [self.Metric(key[:250], value, round(1000 * seconds), step) for key, value in values.items()]
        self._send(1000, metrics=metrics)

    def _send(self, most: int, **items: list) -> None:
        """Sends metrics or params in requests of at most `most` items."""
        for kind, whole in items.items():
            for i in range(0, len(whole), most):
                self.client.log_batch(self.run, **{kind: whole[i : i + most]})

    def finish(self, complete: bool) -> None:
        self.client.set_terminated(self.run, "FINISHED" if complete else "KILLED")


class Trackio:
    """Trackio; by default, with a database in the run's folder. It uses the network only to log to a server."""

    def __init__(self, run: Mapping[str, Any]):
        far = any(os.environ.get(f"TRACKIO_{name}") for name in ("SPACE_ID", "SERVER_URL"))
        here = not far and not os.environ.get("TRACKIO_DIR")
        if not far:
            os.environ["HF_HUB_OFFLINE"] = "1"  # otherwise, Trackio looks up the user's name
        if here:
            os.environ["TRACKIO_DIR"] = f"{run['folder']}/trackio"
        import trackio

        name = run["name"] if here else f"{run['name']}-{run['id']}"  # Trackio identifies a run only by its name
        config = run["config"]
        self.run = trackio.init(PROJECT, name, config=config, resume="allow", auto_log_gpu=False, auto_log_cpu=False)

    def log(self, step: int, seconds: float, values: Values) -> None:
        self.run.log(dict(values), step=step)

    def finish(self, complete: bool) -> None:
        self.run.finish()


CLIENTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts; the keys are joined with dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


class Sent:
    """Records in a file what has been sent, so that steps repeated by a resumed run are not sent again."""

    def __init__(self, path: Path):
        self.path = path
        self.step, self.names = 0, set[str]()
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_text(encoding="utf-8"))
            self.step, self.names = int(found["step"]), set(found["names"])

    def missing(self, step: int, values: Values) -> Values:
        """The values of a point that have not been sent yet."""
        if step < self.step:
            return {}
        return {key: value for key, value in values.items() if step > self.step or key not in self.names}

    def add(self, step: int, values: Values) -> None:
        """Records values that have been sent."""
        self.names = {*values} | (self.names if step == self.step else set())
        self.step = step
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps({"step": step, "names": sorted(self.names)}), encoding="utf-8")
        draft.replace(self.path)


def serve(lines: Iterable[bytes], open_client: Callable[[Mapping[str, Any]], Any], progress: str) -> None:
    """Sends the points that a run writes, until the run ends or is killed.

    Args:
      lines: see this module's docstring.
      open_client: connects to the service, given the description of the run in the first line.
      progress: the file that `Sent` uses, relative to the run's folder.
    """
    messages = messages_of(lines)
    run = next(messages)
    client = open_client(run)
    sent = Sent(Path(run["folder"], progress))
    complete = False
    for message in messages:
        complete = "end" in message
        if complete:
            break
        step, values = message["step"], sent.missing(message["step"], message["values"])
        if values:
            client.log(step, message["time"], values)
            sent.add(step, values)
    client.finish(complete)


def messages_of(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Parses lines of JSON; stops at a line that is incomplete because the run was killed."""
    with contextlib.suppress(ValueError):
        for line in lines:
            yield json.loads(line)


def wait_for_earlier() -> None:
    """Waits up to a minute for the process of a killed run, which locks the same log file until it exits."""
    for _ in range(600):
        try:
            return fcntl.flock(sys.stderr, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:  # the file system does not support locks
            return


def main() -> None:
    """Runs the program. If it fails, its last line of output is the reason."""
    name = sys.argv[1]
    wait_for_earlier()
    with open(os.dup(0), "rb") as lines:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # processes that a client starts must not read from the pipe
        try:
            serve(lines, CLIENTS[name], f"sinks/{name}.json")
        except Exception as error:  # each client has its own exception types
            traceback.print_exc()
            print(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300], file=sys.stderr, flush=True)
            os._exit(1)  # skips the client's exit handlers and threads


if __name__ == "__main__":
    main()
