"""Tests that both implementations in the benchmarks compute the same results and that every measurement runs."""

import argparse

import jax
import pytest
from made_coco import coco_split
from reference_pack import data_folder

from benchmarks import check, evaluation, memory, peers
from benchmarks.cases import Case, inputs_of, params_of
from yolos_jax.model.config import VARIANTS, YolosConfig

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
pytest.importorskip("transformers", reason="transformers is not installed (parity extra)")

SIZE = (64, 64)
MICRO = YolosConfig(width=32, depth=3, heads=2, num_classes=91, init_pe_size=SIZE, mid_pe_size=SIZE)


@pytest.fixture
def case(monkeypatch):
    monkeypatch.setitem(VARIANTS, "ti", MICRO)
    return Case("ti", 64, 96, 2, "float32")


def test_implementations_agree(case):
    ours, theirs = check.numbers(case, jax.devices("cpu")[0], "host"), check.numbers_of_torch(case)
    found = check.distances(ours, theirs)
    assert found["logits"] < 1e-4 and found["boxes"] < 1e-5 and found["loss"] < 1e-5 and found["norm"] < 1e-4


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_every_measurement_runs(case, kind):
    peer = peers.Peer(case, params_of(case), inputs_of(case), "cpu", kind)
    forward, backward, step = (peer.work(name).run() for name in ("forward", "forward_backward", "step"))
    logits, boxes = forward
    plain = logits.square().mean() + boxes.square().mean()
    assert torch.allclose(plain, backward, rtol=1e-5) and len(step) == 2
    assert peer.model.config._attn_implementation == kind


def test_memory_of_both_implementations(case):
    found = [memory.measured(case, "forward", side)["host"] for side in ("ours", "sdpa")]
    assert all(peak > 2**26 for peak in found)


def test_evaluation_of_both_implementations(case):
    """Both implementations report metrics with the same names, and every query of every image is scored."""
    arguments = argparse.Namespace(variant="ti", short_side=64)
    source = coco_split(data_folder("coco_tiny80"), "val2017", 91, 3)
    device = jax.devices("cpu")[0]
    ours = evaluation._our_evaluation(source, params_of(case), 1, device, arguments)()
    theirs = evaluation.Peer(source, params_of(case), "cpu", 1, arguments)(score=True)
    assert ours.metrics.keys() == theirs.keys() and len(ours.results) == 3 * MICRO.det_tokens
