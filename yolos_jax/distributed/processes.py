"""Coordinates the processes of a run.

Every process runs the same program on a part of each batch. The processes exchange events such as a signal, an
unreadable image or a full disk before the next step, so that all of them stop at the same step.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from yolos_jax.distributed.launch import LOST, leave
from yolos_jax.errors import InputError

T = TypeVar("T")
# Words that jax's error messages contain if communication failed because another process died.
SIGNS_OF_LOSS = (
    "gloo", "nccl", "connection", "unavailable", "heartbeat", "coordination", "aborted", "socket", "peer",
)  # fmt: skip


class LostProcess(InputError):
    """Another process has died or is unreachable, so the run cannot continue."""

    def leave(self) -> None:
        """Exits immediately, without waiting for other processes."""
        leave(2)


class Processes:
    """The index of this process in a run, and the number of processes (1 without `jax.distributed`)."""

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()

    @property
    def is_primary(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.index == 0

    def allgather(self, value: Any) -> list[Any]:
        """Gathers a JSON-serializable value from every process, ordered by index. All processes must call it."""
        if self.count == 1:
            return [value]
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = self._gather(np.array([text.size], np.int32))[:, 0]
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: text.size] = text
        return [json.loads(row[:size].tobytes()) for row, size in zip(self._gather(padded), sizes)]

    def agree(self, work: Callable[..., T], *args: Any) -> T:
        """Calls `work(*args)` in every process; if it fails in one, all raise an error. See `agree_and_vote`."""
        return self.agree_and_vote(lambda: work(*args), _no_vote)[0]

    def on_primary(self, work: Callable[..., T], *args: Any) -> T | None:
        """Calls `work(*args)` only in the primary process; if it fails there, all raise an error."""
        return self.agree(lambda: work(*args) if self.is_primary else None)

    def agree_and_vote(self, work: Callable[[], T], vote: Callable[[], int]) -> tuple[T, int]:
        """Calls `work` in every process, and tells all processes whether it failed in any of them.

        Args:
          work: a function that does not communicate.
          vote: a function that is called after `work`.

        Returns:
          The result of `work` in this process, and the largest vote of all processes.

        Raises:
          InputError: `work` raised an `InputError` in any process.
          LostProcess: another process has died, or is about to exit because of a different exception.
          Exception: any other exception of `work` in this process.
        """
        if self.count == 1:
            return work(), vote()
        error: Exception | None = None
        try:
            value = work()
        except Exception as raised:  # raised again below, after the exchange that the other processes wait for
            error = raised
        trouble = 0
        if error is not None:
            trouble = 1 if isinstance(error, InputError) else 2
        votes = self._gather(np.array([trouble, vote()], np.int32))
        if votes[:, 0].any():
            texts = self.allgather(f"{type(error).__name__}: {error}" if trouble == 2 else str(error))
            if error is not None:
                raise error
            who = int(votes[:, 0].argmax())
            kind = LostProcess if votes[who, 0] == 2 else InputError
            raise kind(f"process {who} of {self.count} stopped: {texts[who]}")
        return value, int(votes[:, 1].max())

    def broadcast(self, tree: Any, like: Any) -> Any:
        """Copies arrays bit for bit from the primary process to all processes; returns numpy arrays.

        Args:
          tree: nested dicts or tuples of arrays; only used in the primary process.
          like: the same structure with leaves that have a `.shape` and a `.dtype` of 4 bytes.
        """
        if self.count == 1:
            return jax.tree.map(np.asarray, tree)

        def bits(x: Any) -> np.ndarray:  # the broadcast is a sum, which turns a float -0.0 into 0.0
            return np.ascontiguousarray(x).reshape(x.shape).view(np.uint32)

        def nothing(x: Any) -> np.ndarray:
            return np.zeros(x.shape, np.uint32)

        mine = jax.tree.map(bits, tree) if self.is_primary else jax.tree.map(nothing, like)
        with reports_loss(self.count):
            found = multihost_utils.broadcast_one_to_all(mine, is_source=self.is_primary)
        return jax.tree.map(lambda x, y: np.array(x).view(np.dtype(y.dtype)), found, like)

    @contextlib.contextmanager
    def only_primary_prints(self) -> Iterator[None]:
        """Discards standard output, except in the primary process."""
        with open(os.devnull, "w", errors="replace") as nowhere, contextlib.ExitStack() as stack:
            if not self.is_primary:
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield

    def _gather(self, array: Any) -> Any:
        """Stacks the arrays `[n]` of all processes into `[count, n]`."""
        with reports_loss(self.count):
            return multihost_utils.process_allgather(array)


def _no_vote() -> int:
    return 0


@contextlib.contextmanager
def reports_loss(count: int) -> Iterator[None]:
    """Raises `LostProcess` if communication between `count` processes fails; other errors propagate unchanged."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if count == 1 or "RESOURCE_EXHAUSTED" in text or not any(sign in text.lower() for sign in SIGNS_OF_LOSS):
            raise
        raise LostProcess(LOST.format(f": {text.strip().splitlines()[0][:200]}")) from error


def place(tree: Any, sharding: Any) -> Any:
    """Applies a sharding to arrays of which every process has a full copy; keeps arrays that already have it."""

    def one(x: Any) -> Any:
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])

    return jax.tree.map(one, tree)
