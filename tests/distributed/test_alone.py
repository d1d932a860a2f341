"""Tests of a run with a single process, which does not communicate."""

import numpy as np
import pytest

from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError


def test_single_process_does_not_communicate():
    alone = Processes()
    assert alone.is_primary and alone.count == 1
    assert alone.allgather({"a": 1}) == [{"a": 1}]
    assert alone.agree_and_vote(lambda: 5, lambda: 3) == (5, 3)
    assert alone.agree(divmod, 7, 2) == alone.on_primary(divmod, 7, 2) == (3, 1)
    tree = {"x": np.float32([-0.0, np.nan])}
    assert alone.broadcast(tree, tree)["x"].tobytes() == tree["x"].tobytes()
    with pytest.raises(InputError, match="mine"):
        alone.agree(lambda: (_ for _ in ()).throw(InputError("mine")))
