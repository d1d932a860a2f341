"""Coordinates the processes of a run.

Every process runs the same program on its own part of each batch. Events in one process (a signal, an unreadable
image, a full disk) are exchanged before the next step, so that all processes end at the same step.
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
# Parts of jax's messages when an exchange failed because another process is gone.
SIGNS_OF_LOSS = (
    "gloo", "nccl", "connection", "unavailable", "heartbeat", "coordination", "aborted", "socket", "peer",
)  # fmt: skip


class LostProcess(InputError):
    """Another process is gone, so no further joint computation is possible."""

    def leave(self) -> None:
        """Ends this process at once, without waiting for others."""
        leave(2)


class Processes:
    """The processes of a run; `index` is this one's, and `count` is 1 without `jax.distributed`."""

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()

    @property
    def is_primary(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.index == 0

    def allgather(self, value: Any) -> list[Any]:
        """The JSON-ready values of all processes, in order. All must call this at the same point."""
        if self.count == 1:
            return [value]
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = self._gather(np.array([text.size], np.int32))[:, 0]
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: text.size] = text
        return [json.loads(row[:size].tobytes()) for row, size in zip(self._gather(padded), sizes)]

    def agree(self, work: Callable[..., T], *args: Any) -> T:
        """Calls `work(*args)` in every process; if it fails in one, all fail. See `agree_and_vote`."""
        return self.agree_and_vote(lambda: work(*args), _no_vote)[0]

    def on_primary(self, work: Callable[..., T], *args: Any) -> T | None:
        """Calls `work(*args)` in the primary process only; if it fails there, all fail."""
        return self.agree(lambda: work(*args) if self.is_primary else None)

    def agree_and_vote(self, work: Callable[[], T], vote: Callable[[], int]) -> tuple[T, int]:
        """Runs `work` in every process, and exchanges the outcome.

        Args:
          work: work without communication.
          vote: called afterwards.

        Returns:
          (the result of `work` in this process, the largest vote of all)

        Raises:
          InputError: `work` raised one in any process.
          LostProcess: another process is gone, or is about to exit with another exception.
          Exception: any other exception of `work` in this process.
        """
        if self.count == 1:
            return work(), vote()
        error: Exception | None = None
        try:
            value = work()
        except Exception as raised:  # the others wait for the outcome
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
        """Copies arrays of the primary process to all processes, as numpy, bit for bit.

        Args:
          tree: nested dicts or tuples of arrays; only the primary process's is used.
          like: the same structure with `.shape` and `.dtype` (of 4 bytes).
        """
        if self.count == 1:
            return jax.tree.map(np.asarray, tree)

        def bits(x: Any) -> np.ndarray:  # a sum of floats would turn -0.0 into 0.0
            return np.ascontiguousarray(x).reshape(x.shape).view(np.uint32)

        def nothing(x: Any) -> np.ndarray:
            return np.zeros(x.shape, np.uint32)

        mine = jax.tree.map(bits, tree) if self.is_primary else jax.tree.map(nothing, like)
        with reports_loss(self.count):
            found = multihost_utils.broadcast_one_to_all(mine, is_source=self.is_primary)
        return jax.tree.map(lambda x, y: np.array(x).view(np.dtype(y.dtype)), found, like)

    @contextlib.contextmanager
    def only_primary_prints(self) -> Iterator[None]:
        """Discards the standard output of the other processes."""
        with open(os.devnull, "w", errors="replace") as nowhere, contextlib.ExitStack() as stack:
            if not self.is_primary:
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield

    def _gather(self, array: Any) -> Any:
        """`[n]` of every process -> `[count, n]`."""
        with reports_loss(self.count):
            return multihost_utils.process_allgather(array)


def _no_vote() -> int:
    return 0


@contextlib.contextmanager
def reports_loss(count: int) -> Iterator[None]:
    """Turns a failed exchange between `count` processes into `LostProcess`; other errors pass unchanged."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if count == 1 or "RESOURCE_EXHAUSTED" in text or not any(sign in text.lower() for sign in SIGNS_OF_LOSS):
            raise
        raise LostProcess(LOST.format(f": {text.strip().splitlines()[0][:200]}")) from error


def place(tree: Any, sharding: Any) -> Any:
    """Places arrays, which every process has completely, on all devices; keeps those with this sharding."""

    def one(x: Any) -> Any:
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])

    return jax.tree.map(one, tree)
