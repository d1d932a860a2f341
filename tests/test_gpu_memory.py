"""The table of peaks on GPUs: what follows from numbers that the compiler gives, and what is compiled."""

import dataclasses

import pytest

from benchmarks.gpu_memory import Case, cases, flags, largest_batch, longest, main, table
from yolos_jax.errors import InputError


def entry(images, gigabytes, **changes):
    case = Case("h100", "1x1x1", "yolos_s", "step", "float32", False, images)
    case = dataclasses.asdict(dataclasses.replace(case, **changes))
    return {"case": case, "patches": 4200, "peak_bytes": int(gigabytes * 1e9), "seconds": 60.0,
            "kernels_with_tf32": 0, "collectives": {"all-reduce": 3}}  # fmt: skip


def test_largest_batch_is_on_the_line():
    peaks = {1: 3 * 10**9, 4: 9 * 10**9}  # 1 GB and 2 GB for each image
    assert [largest_batch(peaks, memory * 1e9) for memory in (0.5, 2.9, 3.0, 8.9, 9.0, 60.0)] == [0, 0, 1, 3, 4, 29]
    assert largest_batch({4: 9 * 10**9}, 60e9) is None


def test_a_row_holds_the_peaks_of_a_program():
    failed = {"case": entry(1, 0, remat=True)["case"], "error": "INTERNAL: no tiles"}
    head, _, row, last = table([entry(1, 3), entry(4, 9), failed])
    cells = dict(zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in (head, row))))
    assert cells["1 image(s), GB"] == "3.00" and cells["4 image(s), GB"] == "9.00" and cells["patches"] == "4200"
    assert [cells[f"most in {size} GB"] for size in (12, 16, 24, 40, 80)] == ["4", "5", "8", "14", "29"]  # of 75 %
    assert last == "h100 1x1x1 yolos_s step float32 True 1: does not compile: INTERNAL: no tiles"


def test_cases():
    arguments = flags().parse_args(["--target", "h100.txtpb", "--recipes", "yolos_s", "--images", "1"])
    found = [(case.program, case.dtype, case.remat) for case in cases(arguments, "h100")]
    steps = [("step", dtype, remat) for dtype in ("float32", "bfloat16") for remat in (False, True)]
    assert found == [("forward", "float32", False), *steps]


def test_sequences_are_the_longest_of_the_recipe():
    assert longest("yolos_s") == 50 * 83  # 800 x 1333 pixels
    assert longest("yolos_ti") == 38 * 63  # 608 x 1013


def test_without_a_compiler_for_gpus(tmp_path, monkeypatch):
    (tmp_path / "none.txtpb").write_text("")
    monkeypatch.setattr("sys.argv", ["", "--target", f"{tmp_path}/none.txtpb", "--out", f"{tmp_path}/out.json"])
    with pytest.raises(InputError, match="there is no GPU to compile for"):
        main()
