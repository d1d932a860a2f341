"""Tests of benchmarks.model and its parts: tables, flags, comparison of outputs, multiply-adds. Speed is not tested."""

import argparse
import json
import platform
import sys

import jax
import numpy as np
import psutil
import pytest

from benchmarks import check, measuring, model
from benchmarks.cases import Case, cases_of, inputs_of, size
from benchmarks.measuring import Pairs, device_peak, in_pairs, processor
from benchmarks.tables import gibibytes, model_rows
from benchmarks.timing import host_peak
from yolos_jax.errors import InputError
from yolos_jax.model.config import VARIANTS, Compute, YolosConfig
from yolos_jax.tools.analysis.costs import cost_table, first_sizes, published_rows
from yolos_jax.tools.analysis.multiply_adds import multiply_adds
from yolos_jax.tools.analysis.tables import markdown

MICRO = YolosConfig(width=16, depth=2, heads=2, det_tokens=10, num_classes=4, init_pe_size=(64, 64))


def test_markdown_table():
    rows = [{"a": "1", "b": "2"}, {"a": "3", "c": "4"}]
    assert markdown(rows) == "| a | b | c |\n| --- | --- | --- |\n| 1 | 2 |  |\n| 3 |  | 4 |"


def test_table_row():
    against = {"sdpa": {"seconds": 0.5, "ratio": 1.25, "ratios": [1.25]}, "compile": {"failed": "no compiler"}}
    row = {
        "case": Case("s", 512, 672, 2, "float32")._asdict(), "work": "step", "seconds": 0.4, "compile_seconds": 9.96,
        "images_per_second": 5.0, "multiply_adds": 3e11, "share_of_peak": 0.615, "against": against,
        "memory": {"ours": {"host": 2**31, "device": 2**30}, "sdpa": {"host": 3 * 2**30}},
    }  # fmt: skip
    (shown,) = model_rows([row])
    assert shown == {
        "model": "s 512x672", "batch": "2", "dtype": "float32", "work": "training step", "seconds": "0.400",
        "images/s": "5.00", "compile time": "10.0 s", "multiply-adds": "300.0 G", "utilization": "62%",
        "memory": "1.00 GiB", "sdpa": "0.500 s", "speed ratio to sdpa": "1.25", "memory sdpa": "3.00 GiB",
        "compile": "failed",
    }  # fmt: skip
    assert gibibytes({}) == "failed"


def test_pairs_alternate_the_order():
    order = []
    in_pairs(lambda: order.append("ours"), lambda: order.append("theirs"), 3)
    assert order == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    in_pairs(lambda: order.append("ours"), lambda: order.append("theirs"), 1, warm=False)
    assert order[8:] == ["ours", "theirs"]
    assert Pairs([1.0, 2.0], [2.0, 1.0]).ratios == [2.0, 0.5]


def test_case_flags():
    flags = argparse.Namespace(variants=["s"], sizes=[size("512x672")], batches=[1, 2], dtypes=["float32", "bfloat16"])
    assert [str(case) for case in cases_of(flags)] == [
        f"s 512x672, batch {batch}, {dtype}" for dtype in ("float32", "bfloat16") for batch in (1, 2)
    ]
    for bad in ("512x600", "512", "0x16", "16x1360", "ax16"):
        with pytest.raises((argparse.ArgumentTypeError, ValueError)):
            size(bad)


def test_host_peak_includes_freed_memory():
    before, block = psutil.Process().memory_info().rss, np.ones(2**27, np.uint8)
    there = block.nbytes
    del block
    assert host_peak() >= before + there - 2**22


def test_device_peak():
    class Device:
        device_kind, platform = "NVIDIA H100 80GB HBM3", "gpu"

    assert device_peak(Device, "bfloat16") == (989e12, "data sheet")
    kinds = {"TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v6 lite": 918e12, "NVIDIA L40S": 362e12}
    for Device.device_kind, flops in kinds.items():
        assert device_peak(Device, "bfloat16").flops == flops
    Device.device_kind = "NVIDIA H100 80GB HBM3"
    assert device_peak(Device, "float32").flops == 67e12
    measured = device_peak(jax.devices()[0], "float32", side=256)
    assert measured.flops > 0 and measured.origin == "measured with a 256 x 256 matrix product"


def test_processor_name(tmp_path):
    listed = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu sse4_2 fma avx avx2 vaes\n\nprocessor\t: 1\n"
    (tmp_path / "x86").write_text(listed)
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd sve i8mm\n")
    assert processor(tmp_path / "x86") == "AMD EPYC 7B13 (sse4_2 fma avx avx2)"
    assert processor(tmp_path / "arm").endswith(" (asimd sve i8mm)")
    assert processor(tmp_path / "none") == (platform.processor() or platform.machine())


def test_rejects_different_outputs():
    same = {"logits": np.zeros(3), "boxes": np.zeros(3), "loss": 2.0, "norm": 4.0}
    check.refuse(check.distances(same, same), "outputs")
    for name, value in (("logits", np.full(3, 2e-3)), ("boxes", np.full(3, 2e-4)), ("loss", 2.01), ("norm", np.nan)):
        with pytest.raises(InputError, match=f"outputs differ too much .*{name} by"):
            check.refuse(check.distances(same | {name: value}, same), "outputs")
    far = check.distances(same | {"loss": 2.01}, same)
    assert far["loss"] == pytest.approx(0.005) and far["norm"] == 0.0


def test_multiply_adds_against_the_paper(tmp_path):
    """One image of 640x480, resized to a short side of 512: 512x672 (682 rounded down), 32 x 42 patches."""
    path = tmp_path / "instances.json"
    image = {"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    rows = published_rows(first_sizes(path))
    text = cost_table(rows)
    (row,) = [row for row in rows if (row["variant"], row["short_side"]) == ("ti", 512)]
    assert row["multiply_adds"] == multiply_adds(VARIANTS["ti"], 32, 42).total and row["paper"] == 18.8e9
    assert "| ti | 512 | 6.5 M |" in text and "18.8 G" in text


def test_complete_benchmark(tmp_path, monkeypatch, capsys):
    """Uses a micro model, without PyTorch: compares its outputs with those of the other matcher, then measures them."""
    monkeypatch.setitem(VARIANTS, "ti", MICRO)
    monkeypatch.setitem(measuring.PEAKS, jax.devices()[0].device_kind, (1e11, 1e11))  # measuring peaks is slow
    flags = "--variants ti --sizes 64x80 --batches 2 --workloads forward forward_backward --pairs 1 --against --out"
    monkeypatch.setattr(sys, "argv", ["model", *flags.split(), str(tmp_path / "out.json")])
    model.main()
    found, printed = json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out
    assert "ti 64x80, batch 2, float32, difference from the CPU: logits 0.0e+00, boxes 0.0e+00, loss" in printed
    described = f"float32, attention: blocks of {Compute.query_block}, matrix products in float32, "
    assert f"forward, ti 64x80, batch 2, float32: {described}" in printed
    forward, backward = found["rows"]
    assert forward["work"] == "forward" and forward["multiply_adds"] == multiply_adds(MICRO, 4, 5).total
    assert backward["work"] == "forward_backward" and backward["multiply_adds"] == 3 * forward["multiply_adds"]
    assert all(row["seconds"] > 0 and row["against"] == {} for row in found["rows"])
    assert found["environment"]["platform"] == jax.devices()[0].platform


def test_inputs_are_the_same_in_every_process():
    case = Case("s", 64, 80, 2, "float32")
    one, other = inputs_of(case), inputs_of(case)
    assert one.images.shape == (2, 64, 80, 3) and np.array_equal(one.images, other.images)
    assert one.boxes.shape == (2, 7, 4) and one.boxes.min() > 0 and one.boxes.max() < 1
