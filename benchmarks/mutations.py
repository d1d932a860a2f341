"""Damages a file or folder with mutations selected by a seeded random generator; does not use yolos_jax."""

import json
import os
import random
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEEP = 20_000  # number of nested brackets
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e400, float("nan"), 10**30, "", "a\nb", "\0", "x" * 5000, "../../../etc/passwd", "\ud800",
    [], {}, [[1]], [None], {"a": 1}, [5, "a"], "5", -(2**63), "été", "ant", 2,
)  # fmt: skip
TEXTS = {".json", ".jsonl", ".yaml", ".txt", ".xml", ".py"}


def damage(folder: Path, kind: str, rng: random.Random) -> tuple[str, bool]:
    """Damages a file in a folder; returns a description, and whether all images should still be found."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    texts = [path for path in files if path.suffix in TEXTS] or files
    pick = rng.choice(texts if kind not in ("class_folders", "image") and rng.random() < 0.85 else files)
    ways: list[tuple[str, Callable, bool]] = [(way.__name__.strip("_"), way, True) for way in ANY]
    inner = STRUCTURED.get(pick.suffix)
    if inner and (rng.random() < 0.6 or kind == "recorded"):  # the package writes recorded recipes as JSON
        ways = [(way.__name__.strip("_"), way, False) for way in inner]
    if kind in ("class_folders",) and rng.random() < 0.4:
        ways = [(way.__name__.strip("_"), way, True) for way in TREES]
    name, way, whole = rng.choice(ways)
    what = f"{name}: {pick.relative_to(folder)}"
    Path(f"{folder}.what").write_text(what)
    way(pick, rng)
    return what, whole and not (name in ("empty", "cut", "patched") and pick.suffix in (".txt", ".jsonl"))


def patched(file: Path, rng: random.Random) -> None:
    """Changes a few bytes."""
    data = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 8) if data else 0):
        data[rng.randrange(len(data))] = rng.choice((0, 0xFF, 0x80, 0x0A, 0x22, 0x7B, rng.randrange(256)))
    file.write_bytes(data)


def cut(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data) + 1)])


def empty(file: Path, rng: random.Random) -> None:
    file.write_bytes(b"")


def one_bad_byte(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    at = rng.randrange(len(data) + 1)
    file.write_bytes(data[:at] + b"\xb2" + data[at:])


def byte_order_mark(file: Path, rng: random.Random) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())


def utf16(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes().decode("utf-8", "replace").encode("utf-16"))


def gbk(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes().decode("utf-8", "replace").replace("ant", "蚂蚁").encode("gbk", "replace"))


def noise(file: Path, rng: random.Random) -> None:
    file.write_bytes(rng.randbytes(rng.choice((1, 10, 5000))))


def zeros(file: Path, rng: random.Random) -> None:
    file.write_bytes(bytes(rng.choice((1, 1000))))


def brackets(file: Path, rng: random.Random) -> None:
    opening, closing = rng.choice(("[]", "{}", ("<a>", "</a>"), ('{"a":', "}"), ("- ", "")))
    file.write_text(opening * DEEP + closing * DEEP * rng.randint(0, 1))


def sparse(file: Path, rng: random.Random) -> None:
    os.truncate(file, 2**31)


def a_folder(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.mkdir()


def a_pipe(file: Path, rng: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


def a_socket(file: Path, rng: random.Random) -> None:
    file.unlink()
    here = os.getcwd()
    os.chdir(file.parent)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(file.name)
    os.chdir(here)


def a_link_to_itself(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.symlink_to(file.name)


def a_link_to_nothing(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.symlink_to("nothing")


def a_device(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/dev/tty")))


ANY = (
    patched, patched, cut, cut, empty, one_bad_byte, one_bad_byte, byte_order_mark, utf16, gbk, noise, zeros, brackets,
    sparse, a_folder, a_pipe, a_socket, a_link_to_itself, a_link_to_nothing, a_device,
)  # fmt: skip


def odd_json(file: Path, rng: random.Random) -> None:
    """Removes, duplicates, renames or replaces one value in a JSON file or in one line of a JSON Lines file."""
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    at = rng.randrange(len(lines))
    changed = _odd(json.loads(lines[at]), rng)
    lines[at] = json.dumps(changed)
    file.write_text("\n".join(lines))


def _odd(value: Any, rng: random.Random) -> Any:
    places = list(_places(value))
    parent, key = rng.choice(places) if places else ([value], 0)
    way = rng.randrange(4)
    if way == 0 and isinstance(parent, dict):
        del parent[key]
    elif way == 1 and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif way == 2 and isinstance(parent, dict):
        parent[rng.choice(("1e5", "", "-1", "été"))] = parent.pop(key)
    else:
        parent[key] = rng.choice(ODD)
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def odd_text(file: Path, rng: random.Random) -> None:
    """Replaces one word or number with an invalid one."""
    text = file.read_text()
    words = list(re.finditer(r"[\w.\-]+", text))
    word = rng.choice(words) if words else re.match("", text)
    assert word is not None
    new = rng.choice(
        ("-1", "nan", "1e400", "", "0.5.5", "é", "9" * 400, "a b", "\u2028", "[", "*a", "&a", "!!python/x")
    )
    file.write_text(text[: word.start()] + new + text[word.end() :])


def odd_line(file: Path, rng: random.Random) -> None:
    """Duplicates a line, or replaces it with an invalid or very long one."""
    lines = file.read_text().split("\n")
    at = rng.randrange(len(lines))
    odd = ("x" * 100_000, "\t", "0 0.5", "../..", "a" * 300 + ".jpg", "null", "0 " + "0.5 " * 2000, "~", "/", ".")
    lines[at : at + 1] = rng.choice(([lines[at]] * 2, [rng.choice(odd)]))
    file.write_text("\n".join(lines))


def bomb_yaml(file: Path, rng: random.Random) -> None:
    """Adds exponentially expanding aliases to a key that the package reads."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 9)]
    last = rng.choice(("names: *l8", "train: *l8", "path: *l8", "names: {0: *l8}"))
    file.write_text("\n".join([*lines, file.read_text(), last]))


def bomb_xml(file: Path, rng: random.Random) -> None:
    """Adds exponentially expanding entities."""
    entities = '<!ENTITY a0 "x">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    file.write_text(f"<!DOCTYPE a [{entities}]>" + file.read_text().replace("<filename>", "<filename>&a9;", 1))


def encoded_xml(file: Path, rng: random.Random) -> None:
    name = rng.choice(("gbk", "nothing", "utf-7", "idna", "utf-16", "latin-1"))
    file.write_text(f'<?xml version="1.0" encoding="{name}"?>' + file.read_text())


STRUCTURED: dict[str, tuple[Callable[[Path, random.Random], None], ...]] = {
    ".json": (odd_json,) * 5 + (odd_text,), ".jsonl": (odd_json,) * 5 + (odd_text, odd_line),
    ".yaml": (odd_text, odd_text, odd_line, bomb_yaml), ".txt": (odd_text, odd_line),
    ".xml": (odd_text, odd_text, odd_line, bomb_xml, encoded_xml), ".py": (odd_text,) * 3 + (odd_line,),
}  # fmt: skip


def folder_to_itself(file: Path, rng: random.Random) -> None:
    """Replaces a class folder with a symbolic link to itself."""
    shutil.rmtree(file.parent)
    file.parent.symlink_to(file.parent.name)


def folder_to_above(file: Path, rng: random.Random) -> None:
    (file.parent / "above").symlink_to("..", target_is_directory=True)


def folder_renamed(file: Path, rng: random.Random) -> None:
    file.parent.rename(file.parent.parent / rng.choice(("a\nb", "é", " ", "x" * 200, "train", ".hidden", "a\udcffb")))


def other_ending(file: Path, rng: random.Random) -> None:
    file.rename(file.with_suffix(rng.choice((".jfif", ".JPE", ".avif", ".heic", ".txt", "", ".jpg "))))


def deeper(file: Path, rng: random.Random) -> None:
    (file.parent / "cam0").mkdir()
    file.rename(file.parent / "cam0" / file.name)


def pipe_of_folder(file: Path, rng: random.Random) -> None:
    shutil.rmtree(file.parent)
    os.mkfifo(file.parent)


TREES = (folder_to_itself, folder_to_itself, folder_to_above, folder_renamed, other_ending, deeper, pipe_of_folder)
