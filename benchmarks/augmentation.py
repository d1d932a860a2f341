"""Compares how fast yolos-jax and timm read and augment images for classification.

python -m benchmarks.augmentation                          # one core: 500x375 JPEG to 224 pixels, stage by stage
python -m benchmarks.augmentation --workers 2              # complete loaders, with the same number of workers

Without --data, it generates images of smooth noise (500x375 pixels, JPEG quality 90) whose files are about as large as
those of ImageNet. The comparison needs timm, PyTorch and torchvision; without them, only yolos-jax is measured.
"""

import argparse
import contextlib
import importlib.util
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import AHEAD, in_turns, positive, steps_of
from benchmarks.measuring import processor
from yolos_jax.data.loader import load_batches
from yolos_jax.datasets.class_folders import ClassFolders
from yolos_jax.errors import clear_errors
from yolos_jax.images.sequence import to_patches
from yolos_jax.tasks.classification.batches import classification_work
from yolos_jax.tasks.classification.mixing import Mixing
from yolos_jax.tasks.classification.plan import ShuffledPlan
from yolos_jax.tasks.classification.views import RandomView

WIDTH, HEIGHT, SIZE = 500, 375, 224
PARTS = {
    "decoding and resizing alone": {"operations": 0, "erase": 0.0},
    "with RandAugment": {"erase": 0.0},
    "with RandAugment and erasing": {},
}


def main() -> None:
    """Prints images per second."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--data", type=Path, help="folder of class folders to use instead of generated images")
    parser.add_argument("--workers", type=int, default=0, help="workers per loader; 0 times transforms on one core")
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--images", type=positive, default=4000, help="images per measurement")
    parser.add_argument("--pairs", type=positive, default=5, help="measurements per library")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments.data = arguments.data or make_pictures(Path(folder))
        if not arguments.workers:
            parts(arguments)
        elif timm_is_there():
            in_turns(arguments, {"yolos-jax": ours, "timm": timms})
        else:
            print("timm, torch or torchvision is not installed; measuring only yolos-jax")
            in_turns(arguments, {"yolos-jax": ours, "yolos-jax again": ours})


def timm_is_there() -> bool:
    """Whether timm and its dependencies are installed."""
    return all(importlib.util.find_spec(name) for name in ("timm", "torch", "torchvision"))


def make_pictures(root: Path, count: int = 64) -> Path:
    """Writes images of smooth noise with some grain to two class folders."""
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / "train" / label).mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        grain = random.normal(0, 12, smooth.shape)
        image = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        image.save(root / "train" / "ab"[i % 2] / f"{i}.jpg", quality=90)
    return root


def parts(arguments: argparse.Namespace) -> None:
    """Prints images per second on one core: the median of several alternating measurements of each library."""
    files = [path.read_bytes() for path in sorted((arguments.data / "train").rglob("*.jp*g"))]
    print(processor())
    print(f"{len(files)} images, {statistics.mean(map(len, files)) / 1000:.0f} kB on average")
    for name, changes in PARTS.items():
        works: dict[str, Callable[[bytes], Any]] = {"yolos-jax": our_work(RandomView(size=SIZE, **changes))}  # type: ignore[arg-type]
        if timm_is_there():
            works["timm"] = timms_work(changes)
        speeds: dict[str, list[float]] = {which: [] for which in works}
        for _ in range(arguments.pairs):
            for which, work in works.items():
                start = time.process_time()
                for i in range(arguments.images):
                    work(files[i % len(files)])
                speeds[which].append(arguments.images / (time.process_time() - start))
        text = ", ".join(f"{which} {statistics.median(found):.0f}" for which, found in speeds.items())
        print(f"{name}: {text} images/s on one core")


def our_work(view: RandomView) -> Callable[[bytes], np.ndarray]:
    """Returns a function that converts the bytes of a file to patches."""
    random = np.random.default_rng(0)

    def work(data: bytes) -> np.ndarray:
        numbers = view.draw(random)
        with Image.open(io.BytesIO(data)) as image:
            return np.ascontiguousarray(to_patches(view.pixels(image.convert("RGB"), numbers), 16))

    return work


def timms_work(changes: dict[str, Any]) -> Callable[[bytes], Any]:
    """Returns a function that converts the bytes of a file to a normalised tensor with timm's transforms for DeiT."""
    import torch

    torch.set_num_threads(1)  # idle threads would busy-wait, and process_time would include that
    transform = timms_transform(changes)

    def work(data: bytes) -> Any:
        with Image.open(io.BytesIO(data)) as image:
            return transform(image.convert("RGB"))

    return work


def timms_transform(changes: dict[str, Any]) -> Any:
    from timm.data import create_transform

    policy = "rand-m9-mstd0.5-inc1" if changes.get("operations", 2) else None
    found = create_transform(
        SIZE, is_training=True, color_jitter=None, auto_augment=policy, interpolation="bicubic",
        re_prob=changes.get("erase", 0.25), re_mode="pixel", re_count=1,
    )  # fmt: skip
    for step in found.transforms:
        for operation in getattr(step, "ops", ()):
            operation.magnitude_max = 9.99  # at magnitude 10, posterize keeps 0 bits, an error in Pillow 13
    return found


def ours(arguments: argparse.Namespace, seed: int) -> Generator[int]:
    """Loads batches with yolos-jax."""
    source = ClassFolders(arguments.data, "train")
    steps = steps_of(arguments)
    epochs = -(-steps * arguments.batch_size // (len(source) // arguments.batch_size * arguments.batch_size))
    plan = ShuffledPlan(len(source), arguments.batch_size, epochs, seed)
    work = classification_work(source, plan, RandomView(size=SIZE), 16, np.full(12, 0.1), Mixing(size=SIZE))
    with contextlib.closing(load_batches(work, 0, steps, arguments.workers, AHEAD)) as batches:
        for loaded in batches:
            yield int(loaded.batch.valid.sum())


class Pictures:
    """A PyTorch data set of the same files, defined at module level so that workers can import it."""

    def __init__(self, root: Path, length: int):
        self.files, self.length = sorted((root / "train").rglob("*.jp*g")), length
        self.transform = timms_transform({})

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.files[index % len(self.files)]) as image:
            return self.transform(image.convert("RGB"))


def timms(arguments: argparse.Namespace, seed: int) -> Generator[int]:
    """Loads batches with a PyTorch DataLoader and timm's transforms."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    data: Any = Pictures(arguments.data, steps_of(arguments) * arguments.batch_size)
    loader = torch.utils.data.DataLoader(
        data, arguments.batch_size, shuffle=True, num_workers=arguments.workers, prefetch_factor=AHEAD
    )
    for batch in loader:
        yield len(batch)


if __name__ == "__main__":
    with clear_errors():
        main()
