"""Tests that both implementations in `benchmarks.finetuning_peer` take the same steps and are scored the same way."""

import json

import pytest

from benchmarks import coloured_digits, finetuning_peer
from yolos_jax.errors import InputError
from yolos_jax.model.config import YolosConfig

pytestmark = pytest.mark.parity
pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
pytest.importorskip("transformers", reason="transformers is not installed (parity extra)")

MICRO = YolosConfig(
    width=32, depth=3, heads=2, patch_size=8, det_tokens=6, num_classes=10, init_pe_size=(64, 64), mid_pe_size=(64, 64)
)


def test_implementations_take_the_same_steps(tmp_path, capsys):
    """Runs three steps on 24 scenes, starting from the same random weights."""
    root = tmp_path / "scenes"
    coloured_digits.write(root, 24, 20)  # with 20 scenes, the last evaluation batch is incomplete
    settings = finetuning_peer.STATED | {f"model.{key}": value for key, value in MICRO.to_dict().items()}
    settings |= {"data.root": str(root), "init": "from_nothing", "train.batch_size": 8, "train.images_per_replica": 8}
    settings |= {"train.epochs": 2, "train.max_steps": 3, "model.max_side": 9}
    found = []
    for side in finetuning_peer.SIDES:
        run = {"side": side, "settings": settings, "workdir": str(tmp_path / side), "core": None}
        finetuning_peer.one(json.loads(json.dumps(run)))
        numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
        found.append({"run": {"start": "nothing", "seed": 0, "side": side}} | numbers)
    ours, theirs = found
    assert ours["steps"] == theirs["steps"] == 3
    for name in ("loss 1", "loss 2", "last epoch's loss"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    assert ours["AP50"] == pytest.approx(theirs["AP50"], abs=1e-3)
    assert len(finetuning_peer.loss_rows(found)) == 1
    assert [row["library"] for row in finetuning_peer.rows_of(found)] == ["ours", "transformers"]
    with pytest.raises(InputError, match="losses of step 1 differ by 1.0e-01"):
        finetuning_peer.loss_rows([ours | {"loss 1": 1.1}, theirs | {"loss 1": 1.0}])
