"""What lies in a folder: its images, hidden files and subfolders, by their names. No jax."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from yolos_jax.errors import counted
from yolos_jax.images.reading import HEIF, HELP_WITH_HEIF, image_endings

SYSTEM = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}  # of macOS's archives, Synology and Windows
# Endings of annotations and of what tools leave beside images.
BESIDE = {".cache", ".csv", ".json", ".jsonl", ".md", ".odgt", ".txt", ".xml", ".yaml", ".yml"}
FEW = 6  # kinds of files that a note names


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's (`._name`, `Thumbs.db`) or hidden otherwise: no part of a data set."""
    return name.startswith(".") or name.lower() in SYSTEM


def ending_of(path: str) -> str:
    """The ending of a file's name in lower case, such as `.jpg`; `""` without one."""
    return os.path.splitext(path)[1].lower()


class LeftOut:
    """What a listing leaves out: how many files of each kind, and the first of them."""

    def __init__(self) -> None:
        self.kinds = Counter[str]()  # by their endings, or by what they are, such as "hidden folder"
        self.first = ""

    def add(self, path: str, kind: str = "") -> None:
        """Counts a file; without a `kind`, as a hidden one or by its ending."""
        hidden = "hidden file" if is_hidden(os.path.basename(path)) else ""
        self.kinds[kind or hidden or ending_of(path) or "no ending"] += 1
        self.first = self.first or path

    def add_unreadable(self, error: OSError) -> None:
        """Counts a folder that cannot be opened."""
        self.add(str(error.filename), "unreadable folder")

    def update(self, other: "LeftOut") -> None:
        """Counts what another listing left out, too."""
        self.kinds.update(other.kinds)
        self.first = self.first or other.first

    def note(self, where: str | Path) -> list[str]:
        """A sentence about what was left out of a folder, if anything was."""
        return [f"left out of {where}: {described(self.kinds)}, such as {self.first}"] if self.first else []


def described(kinds: Counter[str]) -> str:
    """`5 other files (.txt 4, no ending 1), 1 hidden file`: what was left out, and what would read it."""
    endings = Counter({kind: n for kind, n in kinds.items() if kind.startswith(".") or kind == "no ending"})
    parts = []
    if endings:
        named = [f"{kind} {n}" for kind, n in endings.most_common(FEW)]
        if len(endings) > FEW:
            named.append("...")
        advice = f"; {HELP_WITH_HEIF}" if HEIF & endings.keys() else ""
        parts.append(f"{counted(endings.total(), 'other file')} ({', '.join(named)}{advice})")
    return ", ".join(parts + [counted(n, kind) for kind, n in kinds.items() if kind not in endings])


def is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder or a link to one; a link to itself, for which `DirEntry.is_dir` raises, is not."""
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
    """A folder and those below it, each with its files' names, in order; links are followed, once each.

    Hidden folders and those that cannot be opened are counted in `left`.
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
            if _is_empty(path):  # it stands where an image should
                left.add(path, "empty folder named like an image")
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield at, sorted(names)


def images_below(folder: Path, left: LeftOut | None = None, beside: Iterable[str] = ()) -> Iterator[str]:
    """Paths, relative to the folder, of the images in it and below, in order; links are followed, once each.

    Other files are counted in `left`, unless their ending is one of those that belong `beside` images.
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
    """The first of `root`'s folders that has one of these names, in any case of letters; None if there is none."""
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
    """The folders in a folder that are not hidden and whose names begin so; none if it is absent."""
    if not root.is_dir():
        return []
    names = [entry.name for entry in os.scandir(root) if entry.name.startswith(beginning) and is_folder(entry)]
    return [root / name for name in sorted(names) if not is_hidden(name)]
