"""Runs the programs of an exported folder on images, and prints the detections as JSON.

python run_detector.py image.jpg ... [--threshold 0.5] [--onnx detector.onnx]

`yolos-export` copies this file next to the programs. It needs only numpy, Pillow, and jax with flatbuffers or, for
ONNX, onnxruntime. export.json describes the programs' inputs and outputs. To use the programs from your own code:

    detector = ExportedDetector("folder")  # or OnnxDetector("folder")
    detector([Image.open("image.jpg")])
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

NEEDED = "platforms", "parameters", "batch", "images", "programs", "label_names", "category_ids"  # required keys


class Unusable(Exception):
    """A problem that the user can fix; the message states the problem and the fix in one sentence."""


def target_size(width: int, height: int, short_side: int, max_side: int, patch: int) -> tuple[int, int]:
    """The (width, height) to resize an image to, in whole patches. The order of operations affects rounding."""
    short = min(width, height)
    long = max(width, height)
    side = short_side
    if long / short * side > max_side:
        side = round(max_side * short / long)
    scaled = int(side * long / short)
    size = (scaled, side) if width >= height else (side, scaled)
    if side == short:
        size = (width, height)
    limit = (max_side + patch - 1) // patch  # rounded up
    columns, rows = (max(min(v // patch, limit), 1) for v in size)
    return columns * patch, rows * patch


def open_upright(path: str) -> Image.Image:
    """Opens an image as RGB and applies its EXIF orientation."""
    if Path(path).exists() and not Path(path).is_file():  # a named pipe would block
        raise Unusable(f"{path} is not a regular file; pass an image file.")
    try:
        with Image.open(path) as image:
            # Further images in an MPO file are previews.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames > 1:
                print(f"note: {path} has {frames} frames or pages; only the first is used", file=sys.stderr)
            image.load()
            upright = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise various exceptions
        raise Unusable(f"the image {path} cannot be read ({error or type(error).__name__}).") from error
    if upright.mode == "F" or upright.mode.startswith("I"):
        raise Unusable(f"the image {path} has more than 8 bits per channel; convert it to 8 bits.")
    return upright.convert("RGB")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a .npz file."""
    zipfile.ZipFile(path).close()  # for any other file, np.load would recommend unsafe loading
    with np.load(path) as arrays:
        return dict(arrays)


def read_description(path: Path) -> dict[str, Any]:
    """Reads export.json; raises `ValueError` if it lacks a required key."""
    described = json.loads(path.read_text())
    absent = [key for key in NEEDED if key not in described]
    if absent:
        raise ValueError(f"it lacks {', '.join(absent)}")
    return described


class Folder:
    """An exported folder, with the code that all programs share for resizing images and decoding outputs."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "export.json").is_file():
            raise Unusable(f"{self.folder} has no export.json; pass a folder written by yolos-export.")
        self.description = self.read("export.json", read_description)

    def read(self, name: str, how: Callable[[Path], Any]) -> Any:
        """Reads a file in the folder with the function `how`; raises `Unusable` if that fails."""
        try:
            if (self.folder / name).exists() and not (self.folder / name).is_file():
                raise ValueError("it is not a regular file")
            return how(self.folder / name)
        except Exception as error:  # json, zipfile, numpy and flatbuffers raise various exceptions
            reason = str(getattr(error, "strerror", None) or error or type(error).__name__).split("\n")[0][:200]
            raise Unusable(f"{self.folder / name} cannot be read ({reason}); export the model again.") from error

    def resized(self, image: Image.Image) -> np.ndarray:
        """Resizes an RGB image to whole patches, as uint8 `[h, w, 3]`."""
        rule = self.description["images"]
        size = target_size(*image.size, rule["short_side"], rule["max_side"], rule["patch_size"])
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image)

    def objects(self, found: dict[str, np.ndarray], threshold: float) -> list[dict[str, Any]]:
        """The objects in one image with a score of at least `threshold`, best first."""
        names, ids = self.description["label_names"], self.description["category_ids"]
        scores, labels = found["scores"], found["labels"]
        return [
            {
                "label": ids[labels[i]] if ids else int(labels[i]),
                "name": names.get(str(labels[i]), str(labels[i])),
                "score": float(scores[i]),
                "box": [float(v) for v in found["pixel_boxes"][i]],
            }
            for i in np.argsort(-scores, kind="stable")
            if scores[i] >= threshold
        ]


class ExportedDetector(Folder):
    """Runs the StableHLO programs on jax's default device; each one is compiled on first use."""

    def __init__(self, folder: str | Path):
        import jax

        super().__init__(folder)
        backend, platforms = jax.default_backend(), self.description["platforms"]
        if not {"gpu": {"cuda", "rocm"}}.get(backend, {backend}) & set(platforms):
            raise Unusable(f"the programs are for {', '.join(platforms)}, but jax runs on {backend}.")
        self.parameters = jax.device_put(self.read(self.description["parameters"]["file"], read_arrays))
        self.programs: dict[str, Any] = {}

    def __call__(self, images: list[Image.Image], threshold: float = 0.5) -> list[list[dict[str, Any]]]:
        """The objects in each RGB image, best first; a `box` is absolute xyxy in the image's pixels."""
        size = self.description["batch"] or 1
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        return [found for batch in batches for found in self.detect(batch, size, threshold)]

    def detect(self, images: list[Image.Image], slots: int, threshold: float) -> list[list[dict[str, Any]]]:
        """Runs one batch; unused slots contain a single black patch."""
        patch = self.description["images"]["patch_size"]
        grid, sizes = np.ones((slots, 2), np.int32), np.ones((slots, 2), np.float32)
        sequences = []
        for i, image in enumerate(images):
            pixels = self.resized(image)
            rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
            grid[i] = rows, columns
            sizes[i] = image.size
            patches = pixels.reshape(rows, patch, columns, patch, 3).swapaxes(1, 2)
            sequences.append(patches.reshape(-1, 3 * patch * patch))
        run, tokens = self.program(max(map(len, sequences)))
        padded = np.zeros((slots, tokens, 3 * patch * patch), np.uint8)
        for i, sequence in enumerate(sequences):
            padded[i, : len(sequence)] = sequence
        found = run(self.parameters, padded, grid, sizes)
        out = {name: np.asarray(value) for name, value in found.items()}
        return [self.objects({name: out[name][i] for name in out}, threshold) for i in range(len(images))]

    def program(self, patches: int) -> tuple[Any, int]:
        """The smallest program that can process this number of patches, and its capacity."""
        fitting = [p for p in self.description["programs"] if p["patches"] >= patches]
        if not fitting:
            raise Unusable(f"there is no program for an image of {patches} patches; see yolos-export --patches.")
        best = min(fitting, key=lambda p: p["patches"])
        file = best["file"]
        if file not in self.programs:
            import jax
            from jax import export

            program = self.read(file, lambda path: export.deserialize(bytearray(path.read_bytes())))
            self.programs[file] = jax.jit(program.call)
        return self.programs[file], best["patches"]


class OnnxDetector(Folder):
    """Runs an ONNX program (`detector.onnx` or `detector-int8.onnx`) in onnxruntime.

    The images of a batch share a canvas that fits the largest of them, so batch images of similar sizes.
    """

    def __init__(self, folder: str | Path, file: str = "detector.onnx", batch_size: int = 1, providers: Any = None):
        import onnxruntime

        super().__init__(folder)
        chosen = providers or ["CPUExecutionProvider"]
        self.session = self.read(file, lambda path: onnxruntime.InferenceSession(path, providers=chosen))
        self.batch_size = batch_size

    def __call__(self, images: list[Image.Image], threshold: float = 0.5) -> list[list[dict[str, Any]]]:
        """The objects in each RGB image, best first; a `box` is absolute xyxy in the image's pixels."""
        size = self.batch_size
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        return [found for batch in batches for found in self.detect(batch, threshold)]

    def inputs(self, images: list[Image.Image]) -> dict[str, np.ndarray]:
        """The program's inputs for one batch."""
        patch = self.description["images"]["patch_size"]
        pixels = [self.resized(image) for image in images]
        shapes = np.array([one.shape[:2] for one in pixels], np.int32)
        canvas = np.zeros((len(images), *shapes.max(0), 3), np.uint8)
        for place, one in zip(canvas, pixels):
            place[: one.shape[0], : one.shape[1]] = one
        size = np.array([image.size for image in images], np.float32)
        return {"images": canvas, "grid": shapes // patch, "size": size}

    def detect(self, images: list[Image.Image], threshold: float) -> list[list[dict[str, Any]]]:
        """Runs one batch."""
        names = [output.name for output in self.session.get_outputs()]
        out = dict(zip(names, self.session.run(names, self.inputs(images))))
        return [self.objects({name: out[name][i] for name in out}, threshold) for i in range(len(images))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--threshold", type=float, default=0.5, help="minimum score to report (default 0.5)")
    parser.add_argument("--onnx", metavar="FILE", help="run this ONNX file, from the same folder, with onnxruntime")
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent
    detector = OnnxDetector(folder, args.onnx) if args.onnx else ExportedDetector(folder)
    images = [open_upright(path) for path in args.images]
    files = [{"file": path, "width": image.width, "height": image.height} for path, image in zip(args.images, images)]
    found = [file | {"objects": objects} for file, objects in zip(files, detector(images, args.threshold))]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    try:
        main()
    except Unusable as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
