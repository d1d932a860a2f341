"""Detects in images: a drawn copy and a JSON file for each.

python predict.py image.jpg folder/ --checkpoint runs/s --out out/
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from yolos_jax.errors import InputError, clear_errors, make_folder
from yolos_jax.images.reading import UnreadableImage, open_rgb
from yolos_jax.programs.command_line import Parser

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


def parse() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="images, or folders of images")
    parser.add_argument("--checkpoint", required=True, help="checkpoint folder, Hugging Face folder, or hub id")
    parser.add_argument("--out", required=True, type=Path, help="folder for the drawn images and JSON files")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score to report (default 0.5)")
    parser.add_argument("--short-side", type=int, help="pixels of the short side (default: as trained, else 800)")
    parser.add_argument("--max-side", type=int, help="most pixels of the long side (default: in proportion)")
    parser.add_argument("--batch-size", type=int, default=1, help="most images at a time (default 1)")
    parser.add_argument("--limit", type=int, default=0, help="only the first so many images")
    parser.add_argument("--overwrite", action="store_true", help="replace files of an earlier run")
    return parser.parse()


def find(images: list[Path]) -> list[Path]:
    """The images named, and those in the folders named, in order."""
    out: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS)
            if not inside:
                raise InputError(f"the folder {path} holds no images ({', '.join(sorted(ENDINGS))}).")
            out += inside
        else:
            out.append(path)
    return out


def targets(images: list[Path], out: Path, overwrite: bool) -> list[Path]:
    """Where each drawn image goes; the JSON file has the same name. Names never collide."""
    paths: list[Path] = []
    taken: set[str] = set()
    for image in images:
        name, n = image.stem, 1
        while name.lower() in taken:
            n += 1
            name = f"{image.stem}-{n}"
        taken.add(name.lower())
        paths.append(out / f"{name}.png")
    sources = {image.resolve() for image in images}
    for path in paths:
        if path.resolve() in sources:
            raise InputError(f"{path} is one of the images to read and would be lost; give another --out.")
    old = [p for path in paths for p in (path, path.with_suffix(".json")) if p.exists()]
    if old and not overwrite:
        raise InputError(f"{old[0]} exists already; give another --out, or --overwrite.")
    return paths


def decoded(pairs: list[tuple[Path, Path]], size: int) -> Iterator[list[tuple]]:
    """Chunks of (image, path, RGB image or a sentence why not), read while the chunk before is detected in."""

    def read(pair: tuple[Path, Path]) -> tuple:
        try:
            return *pair, open_rgb(pair[0], upright=True)
        except UnreadableImage as error:
            return *pair, str(error)

    with ThreadPoolExecutor(4) as pool:
        ahead: list = []
        for start in range(0, len(pairs), size):
            ahead.append([pool.submit(read, pair) for pair in pairs[start : start + size]])
            if len(ahead) > 1:
                yield [future.result() for future in ahead.pop(0)]
        for chunk in ahead:
            yield [future.result() for future in chunk]


def main() -> None:
    """The program."""
    args = parse()
    with clear_errors():
        predict(args)


def predict(args: argparse.Namespace) -> None:
    """Detects, draws and writes."""
    if args.batch_size < 1 or args.limit < 0 or not 0 <= args.threshold <= 1:
        raise InputError("--batch-size must be at least 1, --limit at least 0 and --threshold within 0..1.")
    if min(args.short_side or 1, args.max_side or 1) < 1:
        raise InputError("--short-side and --max-side must be at least 1.")
    images = find(args.images)[: args.limit or None]
    paths = targets(images, args.out, args.overwrite)
    make_folder(args.out)

    from tqdm import tqdm

    from yolos_jax.inference.detector import Detector

    detector = Detector.load(args.checkpoint, args.short_side, args.max_side, args.batch_size)
    boxes, skipped = 0, []
    with tqdm(total=len(images), unit="image", desc="detecting") as bar:
        for chunk in decoded(list(zip(images, paths)), args.batch_size):
            skipped += [image for _, _, image in chunk if isinstance(image, str)]
            readable = [c for c in chunk if not isinstance(c[2], str)]
            for (source, path, image), found in zip(readable, detector([c[2] for c in readable], args.threshold)):
                found.draw(image).save(path)
                values = {"file": str(source)} | found.to_dict()
                path.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")
                boxes += len(found)
            bar.update(len(chunk))
    for sentence in skipped:
        print(f"skipped: {sentence}")
    print(f"{boxes} objects in {len(images) - len(skipped)} images, {len(skipped)} unreadable; written to {args.out}")
    if skipped:
        raise InputError(f"{len(skipped)} of {len(images)} images could not be read, the first: {skipped[0]}")


if __name__ == "__main__":
    main()
