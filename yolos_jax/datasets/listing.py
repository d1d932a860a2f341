"""Lists images, other files and subfolders of a folder by name. Does not import jax."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from yolos_jax.errors import counted
from yolos_jax.images.reading import HEIF, HELP_WITH_HEIF, image_endings

SYSTEM = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}  # created by macOS, Synology and Windows
# Extensions of annotation files and other files that are expected next to images.
BESIDE = {".cache", ".csv", ".json", ".jsonl", ".md", ".odgt", ".txt", ".xml", ".yaml", ".yml"}
FEW = 6  # maximum number of file types in a note


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or created by the system (`._name`, `Thumbs.db`)."""
    return name.startswith(".") or name.lower() in SYSTEM


def ending_of(path: str) -> str:
    """Returns a file's extension in lower case, such as `.jpg`, or `""` if it has none."""
    return os.path.splitext(path)[1].lower()


class LeftOut:
    """Counts the files and folders that a listing skips, by kind, and stores the first path."""

    def __init__(self) -> None:
        self.kinds = Counter[str]()  # the keys are file extensions, or types such as "hidden folder"
        self.first = ""

    def add(self, path: str, kind: str = "") -> None:
        """Counts a file; `kind` defaults to "hidden file" for a hidden file and to the extension for any other."""
        hidden = "hidden file" if is_hidden(os.path.basename(path)) else ""
        self.kinds[kind or hidden or ending_of(path) or "no extension"] += 1
        self.first = self.first or path

    def add_unreadable(self, error: OSError) -> None:
        """Counts a folder that cannot be opened."""
        self.add(str(error.filename), "unreadable folder")

    def update(self, other: "LeftOut") -> None:
        """Adds the counts of another listing."""
        self.kinds.update(other.kinds)
        self.first = self.first or other.first

    def note(self, where: str | Path) -> list[str]:
        """Returns a note about the skipped files in a folder, if there are any."""
        return [f"skipped in {where}: {described(self.kinds)}, for example {self.first}"] if self.first else []


def described(kinds: Counter[str]) -> str:
    """Describes the skipped files, for example `5 other files (.txt 4, no extension 1), 1 hidden file`."""
    endings = Counter({kind: n for kind, n in kinds.items() if kind.startswith(".") or kind == "no extension"})
    parts = []
    if endings:
        named = [f"{kind} {n}" for kind, n in endings.most_common(FEW)]
        if len(endings) > FEW:
            named.append("...")
        advice = f"; {HELP_WITH_HEIF}" if HEIF & endings.keys() else ""
        parts.append(f"{counted(endings.total(), 'other file')} ({', '.join(named)}{advice})")
    return ", ".join(parts + [counted(n, kind) for kind, n in kinds.items() if kind not in endings])


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; False for a circular link, for which `is_dir` raises an error."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_empty(folder: str) -> bool:
    try:
        return not os.listdir(folder)
    except OSError:
        return False


def walk(folder: str | Path, left: LeftOut | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yields (path, sorted file names) for a folder and all folders below it, in sorted order.

    Links are followed, but each folder is visited only once. Hidden and unreadable folders are counted in `left`.
    """
    left = LeftOut() if left is None else left
    seen, endings = set[str](), image_endings()
    for at, folders, names in os.walk(folder, followlinks=True, onerror=left.add_unreadable):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in filter(is_hidden, folders):
            left.add(os.path.join(at, name), "hidden folder")
        for path in (os.path.join(at, name) for name in sorted(folders) if ending_of(name) in endings):
            if _is_empty(path):  # an empty folder instead of an image file
                left.add(path, "empty folder")
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield at, sorted(names)


def images_below(folder: Path, left: LeftOut | None = None, beside: Iterable[str] = ()) -> Iterator[str]:
    """Yields the relative paths of all images in a folder and its subfolders, in sorted order.

    Links are followed, but each folder is visited only once. Other files are counted in `left`, except those with an
    extension in `beside`.
    """
    endings = image_endings()
    expected = set(beside)
    for at, names in walk(folder, left):
        inside = os.path.relpath(at, folder)
        for name in names:
            path = name if inside == "." else os.path.join(inside, name)
            ending = ending_of(name)
            if ending in endings and not is_hidden(name):
                yield path
            elif left is not None and ending not in expected:
                left.add(os.path.join(at, name))


def subfolder(root: Path, *names: str) -> Path | None:
    """Returns the subfolder of `root` with the first of these names that exists, ignoring case, or None."""
    try:
        present = {entry.name: entry.name.lower() for entry in os.scandir(root) if is_folder(entry)}
    except OSError:
        return None
    for name in names:
        if name in present:
            return root / name
        found = sorted(each for each, lower in present.items() if lower == name.lower())
        if found:
            return root / found[0]
    return None


def folders_in(root: Path, beginning: str = "") -> list[Path]:
    """Returns the visible subfolders whose names start with `beginning`; an empty list if `root` does not exist."""
    if not root.is_dir():
        return []
    names = [entry.name for entry in os.scandir(root) if entry.name.startswith(beginning) and is_folder(entry)]
    return [root / name for name in sorted(names) if not is_hidden(name)]
