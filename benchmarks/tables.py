"""Formats the results of `benchmarks.model` as a table."""

from collections.abc import Sequence
from typing import Any

NAMES = {"forward": "forward", "forward_backward": "forward + backward", "step": "training step"}


def model_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Table rows for `markdown` from the results of `benchmarks.model`."""
    return [_model_row(row) for row in rows]


def _model_row(row: dict[str, Any]) -> dict[str, str]:
    case = row["case"]
    shown = {
        "model": f"{case['variant']} {case['height']}x{case['width']}", "batch": str(case["batch"]),
        "dtype": case["dtype"], "work": NAMES[row["work"]], "seconds": f"{row['seconds']:.3f}",
        "images/s": f"{row['images_per_second']:.2f}", "compile time": f"{row['compile_seconds']:.1f} s",
        "multiply-adds": f"{row['multiply_adds'] / 1e9:.1f} G", "utilization": f"{row['share_of_peak']:.0%}",
    }  # fmt: skip
    memory = row.get("memory", {})
    shown |= {"memory": gibibytes(memory["ours"])} if "ours" in memory else {}
    for kind, found in row["against"].items():
        if "failed" in found:
            shown[kind] = "failed"
            continue
        shown[kind] = f"{found['seconds']:.3f} s"
        shown[f"speed ratio to {kind}"] = f"{found['ratio']:.2f}"
        shown |= {f"memory {kind}": gibibytes(memory[kind])} if kind in memory else {}
    return shown


def gibibytes(peaks: dict[str, int]) -> str:
    """Formats the peak memory of the device, or of the host for a CPU."""
    return f"{peaks.get('device', peaks.get('host', 0)) / 2**30:.2f} GiB" if peaks else "failed"
