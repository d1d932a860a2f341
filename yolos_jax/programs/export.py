"""Exports a detector as a portable program that runs without this package.

yolos-export --checkpoint runs/s --out exported/
python exported/run_detector.py image.jpg       only needs jax, flatbuffers, numpy and Pillow

Each program (StableHLO, created with jax.export) processes sequences of up to a fixed number of patches. By default
there is one program, which is large enough for all images. Additional programs for smaller images only save time.
"""

import argparse
from pathlib import Path

from yolos_jax.errors import InputError, check_empty, clear_errors
from yolos_jax.programs.command_line import Parser


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_detector_flags()
    parser.add_argument("--out", required=True, type=Path, help="folder to create")
    parser.add_argument(
        "--patches",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help="export one program per N, for sequences of at most N patches",
    )
    text = "export a program for images resized to this size in pixels; may be repeated"
    parser.add_argument("--image-size", nargs=2, type=int, action="append", default=[], metavar=("H", "W"), help=text)
    parser.add_argument(
        "--batch-size", default="polymorphic", help="images per batch (default polymorphic: any number)"
    )
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help="comma-separated list of cpu, cuda, rocm and tpu (default cpu,cuda,tpu)",
    )
    text = "also write detector.onnx, for any batch size and image size; requires pip install 'yolos-jax[onnx]'"
    parser.add_argument("--onnx", action="store_true", help=text)
    parser.add_argument(
        "--int8", action="store_true", help="with --onnx: also write detector-int8.onnx, with int8 weights"
    )
    return parser.parse()


def batch_of(text: str) -> int | None:
    """The value of --batch-size; None for `polymorphic`."""
    if text == "polymorphic":
        return None
    from yolos_jax.tools.exporting.stablehlo import MOST_IMAGES as most

    if not text.isdecimal() or len(text) > len(str(most)) or not 1 <= int(text) <= most:
        raise InputError(f"--batch-size is {text!r:.40}; it must be a number from 1 to {most}, or polymorphic.")
    return int(text)


def export(args: argparse.Namespace) -> None:
    """Exports the detector, and lists the files that it wrote."""
    from yolos_jax.images.sequence import most_patches
    from yolos_jax.inference.loading import geometry_for, load_model
    from yolos_jax.model.config import Compute
    from yolos_jax.tools.exporting import onnx, stablehlo

    batch = batch_of(args.batch_size)
    platforms = [name.strip() for name in args.platforms.split(",")]
    if any(side is not None and side < 1 for side in (args.short_side, args.max_side)):
        raise InputError("--short-side and --max-side must be at least 1.")
    check_empty(args.out)
    if args.int8 and not args.onnx:
        raise InputError("--int8 requires --onnx.")
    if args.onnx:
        onnx.check_installed()
    params, meta = load_model(args.checkpoint)
    geometry = geometry_for(meta, args.short_side, args.max_side)
    most = most_patches(geometry.short_side, geometry.max_side, geometry.patch)
    compute, patch = Compute(max_side=meta.max_side), meta.model.patch_size
    wanted = {*args.patches, *(stablehlo.patches_of(h, w, patch, meta.max_side) for h, w in args.image_size)}
    tokens = sorted(wanted) or [most]
    programs = [stablehlo.to_stablehlo(meta.model, compute, n, batch, platforms) for n in tokens]
    converted = onnx.to_onnx(meta.model, compute, params, args.int8) if args.onnx else None
    facts = stablehlo.write_folder(args.out, params, meta, geometry, programs, converted)

    if tokens[-1] < most:
        print(
            f"note: images with a short side of {geometry.short_side} and a long side of at most {geometry.max_side} "
            f"pixels have up to {most} patches; there is no program for images with more than {tokens[-1]} patches."
        )
    for file in [*(converted.files if converted else ()), facts["parameters"]["file"]]:
        print(f"{file}: {(args.out / file).stat().st_size / 1e6:.1f} MB")
    if converted is not None:
        differences = " and ".join(f"{name} by {d:.1e}" for name, d in converted.facts["differences_from_ours"].items())
        print(
            f"ONNX created and checked with {converted.facts['made_with']}; its outputs differ from yolos-jax: "
            f"{differences}"
        )
    print(f"written: {args.out}, with programs for {', '.join(map(str, tokens))} patches on {', '.join(platforms)}")
    print(f"try it: python {args.out / 'run_detector.py'} IMAGE")


@clear_errors()
def main() -> None:
    """Runs the program."""
    export(parse())


if __name__ == "__main__":
    main()
