"""Detects in images: a drawn copy and a JSON file for each.

python predict.py image.jpg folder/ --checkpoint runs/s --out out/
"""

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from yolos_jax.errors import InputError, clear_errors, make_folder
from yolos_jax.images.reading import UnreadableImage, open_rgb
from yolos_jax.programs.command_line import Parser, say

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


def find(images: list[Path]) -> list[Path]:
    """The images named, and those in the folders named, in order."""
    out: list[Path] = []
    for path in images:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"the folder {path} holds no images ({', '.join(sorted(ENDINGS))}).")
        out += inside
    return out


def targets(images: list[Path], out: Path, overwrite: bool) -> list[Path]:
    """Where each drawn image goes; the JSON file has the same name. Names never collide."""
    paths: dict[str, Path] = {}  # by lower-case name: some file systems do not tell the cases apart
    for image in images:
        names = itertools.chain([image.stem], (f"{image.stem}-{n}" for n in itertools.count(2)))
        name = next(name for name in names if name.lower() not in paths)
        paths[name.lower()] = out / f"{name}.png"
    sources = {image.resolve() for image in images}
    for path in paths.values():
        if path.resolve() in sources:
            raise InputError(f"{path} is one of the images to read and would be lost; give another --out.")
        for old in (path, path.with_suffix(".json")):
            if old.exists() and not overwrite:
                raise InputError(f"{old} exists already; give another --out, or --overwrite.")
    return list(paths.values())


def decoded(pairs: list[tuple[Path, Path]], size: int, upright: bool, stretch: bool) -> Iterator[list[tuple]]:
    """Chunks of (source, target, RGB image or the reason why there is none), each read while the last one is used."""

    def read(pair: tuple[Path, Path]) -> tuple:
        try:
            image = open_rgb(pair[0], upright, stretch)
            # A copy without EXIF: nothing turns it later.
            return *pair, image if upright else Image.fromarray(np.asarray(image))
        except UnreadableImage as error:
            return *pair, str(error)

    with ThreadPoolExecutor(4) as pool:
        chunks = (pool.map(read, pairs[start : start + size]) for start in range(0, len(pairs), size))
        for due, _ in itertools.pairwise(itertools.chain(chunks, [()])):  # has the next chunk begin to be read first
            yield list(due)


@clear_errors()
def main() -> None:
    """Detects, draws and writes."""
    parser = Parser(__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="images, or folders of images")
    parser.add_detector_flags()
    parser.add_argument("--out", required=True, type=Path, help="folder for the drawn images and JSON files")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score to report (default 0.5)")
    parser.add_argument("--batch-size", type=int, default=1, help="most images at a time (default 1)")
    parser.add_argument("--limit", type=int, default=0, help="only the first so many images")
    text = "do not turn images as their EXIF tag says, as data.upright=no does; boxes are those of the stored image"
    parser.add_argument("--as-stored", action="store_true", help=text)
    text = "make the maximum of an image of 16 bits white (default: as trained)"
    parser.add_argument("--stretch", action="store_true", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace files of an earlier run")
    text = "where compiled programs are kept: auto (the user's cache folder), off, or a folder"
    parser.add_argument("--compilation-cache", default="auto", metavar="WHERE", help=text)
    args = parser.parse()
    if args.batch_size < 1 or args.limit < 0 or not 0 <= args.threshold <= 1:
        raise InputError("--batch-size must be at least 1, --limit at least 0 and --threshold within 0..1.")
    if min(args.short_side or 1, args.max_side or 1) < 1:
        raise InputError("--short-side and --max-side must be at least 1.")
    images = find(args.images)[: args.limit or None]
    paths = targets(images, args.out, args.overwrite)
    make_folder(args.out)

    from tqdm import tqdm

    from yolos_jax.compiled import OFF, keep_compiled
    from yolos_jax.data.dark import dark_files
    from yolos_jax.inference.detector import Detector

    say(keep_compiled(args.compilation_cache))
    detector = Detector.load(args.checkpoint, args.short_side, args.max_side, args.batch_size, OFF)
    boxes, skipped, stretch = 0, [], args.stretch or detector.stretch
    with tqdm(total=len(images), unit="image", desc="detecting") as bar:
        for chunk in decoded(list(zip(images, paths)), args.batch_size, not args.as_stored, stretch):
            skipped += [image for _, _, image in chunk if isinstance(image, str)]
            readable = [c for c in chunk if not isinstance(c[2], str)]
            for (source, path, image), found in zip(readable, detector([c[2] for c in readable], args.threshold)):
                found.draw(image).save(path)
                values = {"file": str(source)} | found.to_dict()
                path.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n")
                boxes += len(found)
            bar.update(len(chunk))
    for reason in skipped:
        print(f"skipped: {reason}")
    for name in [] if stretch else dark_files([str(image) for image in images]):
        print(f"note: {name} has 16 bits but holds fewer, and becomes almost black; --stretch makes its maximum white")
    print(f"{boxes} objects in {len(images) - len(skipped)} images, {len(skipped)} unreadable; written to {args.out}")
    if skipped:
        raise InputError(f"{len(skipped)} of {len(images)} images could not be read, the first: {skipped[0]}")


if __name__ == "__main__":
    main()
