"""Tests of benchmarks.compile_only: formatting of results, and selection of cases."""

import dataclasses
import json

import pytest

from benchmarks.compile_only import TPUS, Case, cases, flags, largest_batch, line, longest, main, option_of, table
from yolos_jax.errors import InputError


def entry(images, gigabytes, **changes):
    case = Case("h100", 8, "yolos_s", "step", "float32", False, "device", images, "", 4200, 7)
    case = dataclasses.asdict(dataclasses.replace(case, **changes))
    reduced = {"op": "all-reduce", "number": 3, "bytes": 123_000_000, "beside": 12}
    return {"case": case, "attention": "blocks", "query_block": 1024, "seconds": 60.0,
            "cpu_seconds": 90.0, "peak_bytes": int(gigabytes * 1e9), "memory_bytes": 85e9, "kernels_with_tf32": 0,
            "calls": {"__cublas$gemm": 4}, "collectives": [reduced], "launches": 1234, "moved_bytes": 9_870_000_000,
            "unknown_loops": 1}  # fmt: skip


def test_extrapolates_the_largest_batch():
    peaks = {1: 3 * 10**9, 4: 9 * 10**9}  # 1 GB plus 2 GB per image
    assert [largest_batch(peaks, memory * 1e9) for memory in (0.5, 2.9, 3.0, 8.9, 9.0, 60.0)] == [0, 0, 1, 3, 4, 29]
    assert largest_batch({4: 9 * 10**9}, 60e9) is None


def test_table_of_peak_memory():
    failed = {"case": entry(1, 0, remat=True)["case"], "error": "INTERNAL: no tiles"}
    head, _, row, last = table([entry(1, 3), entry(4, 9), failed])
    cells = dict(zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in (head, row))))
    assert cells["1 image(s), GB"] == "3.00" and cells["4 image(s), GB"] == "9.00" and cells["patches"] == "4200"
    assert cells["boxes"] == "7"
    # Batches that fit into 75% of the memory.
    assert [cells[f"max. batch, {size} GB"] for size in (12, 16, 24, 40, 80)] == ["4", "5", "8", "14", "29"]
    name = "h100 x8 yolos_s step float32 remat images=1 patches=4200 objects=7"
    assert last == f"{name}: does not compile: INTERNAL: no tiles"


def test_line_for_a_program():
    assert line(entry(1, 3, matcher="host")) == (
        "h100 x8 yolos_s step float32 matcher=host images=1 patches=4200 objects=7: 3.00 GB of 85; "
        "attention: blocks of 1024; compiled in 60.0 s (90.0 s of CPU time); 1234 launches, 9.9 GB moved; "
        "1 loop of unknown length; 4 calls to __cublas$gemm; 3 all-reduce, 123.000 MB, 12 launches overlap"
    )


def test_cases_are_combinations_of_flags():
    given = ["--targets", "h100.txtpb", "--recipes", "yolos_s", "--remat", "0", "1", "--matchers", "device", "host"]
    found = cases(flags().parse_args(given), "h100")
    forwards = [(case.program, case.dtype, case.remat, case.matcher) for case in found[:2]]
    assert forwards == [("forward", dtype, False, "") for dtype in ("float32", "bfloat16")]
    steps = [(case.dtype, case.remat, case.matcher) for case in found[2:]]
    dtypes, matchers = ("float32", "bfloat16"), ("device", "host")
    assert steps == [(d, remat, matcher) for d in dtypes for remat in (False, True) for matcher in matchers]


def test_a_program_with_another_length_or_number_of_boxes_is_compiled_again(tmp_path, monkeypatch, capsys):
    """The results in the file are used only for the same program, and if they have the launches that are wanted."""
    compiled, wanted = [], ["", "--targets", "v4", "h100.txtpb", "--recipes", "yolos_s", "--programs", "step"]
    wanted += ["--dtypes", "float32", "--out", str(tmp_path / "out.json")]

    def measured(case, target, arguments):
        compiled.append((case.target, case.patches, case.objects, arguments.launches))
        found = {name: value for name, value in entry(1, 3).items() if name not in ("case", "launches", "moved_bytes")}
        return found | ({"launches": 5, "moved_bytes": 6} if arguments.launches and target != "v4" else {})

    monkeypatch.setattr("benchmarks.compile_only.measured", measured)
    for flags_ in ([], ["--objects", "7"], [], ["--patches", "99"], ["--launches"], ["--launches"]):
        monkeypatch.setattr("sys.argv", wanted + flags_)
        main()
    both = [(4150, 100), (4150, 7), (99, 100)]
    assert compiled == [(t, *size, False) for size in both for t in ("v4", "h100")] + [("h100", 4150, 100, True)]
    assert len(json.loads((tmp_path / "out.json").read_text())) == 6 and "5 launches" in capsys.readouterr().out


def test_parses_compiler_options():
    assert [option_of(f"some_key={value}") for value in ("true", "false", "8000", "ON=1")] == [
        ("some_key", value) for value in (True, False, 8000, "ON=1")
    ]


def test_topologies_have_the_requested_number_of_chips():
    for _, layouts in TPUS.values():
        for count, layout in layouts.items():
            chips = 1
            for side in layout.split("x"):
                chips *= int(side)
            assert chips == count or count == 1


def test_longest_sequence_of_a_recipe():
    assert longest("yolos_s") == 50 * 83  # 800 x 1333 pixels
    assert longest("yolos_ti") == 38 * 63  # 608 x 1013


def test_error_without_a_gpu_compiler(tmp_path, monkeypatch):
    (tmp_path / "none.txtpb").write_text("")
    monkeypatch.setattr("sys.argv", ["", "--targets", f"{tmp_path}/none.txtpb", "--out", f"{tmp_path}/out.json"])
    with pytest.raises(InputError, match="none.txtpb is not available"):
        main()
