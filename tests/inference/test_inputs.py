"""Tests how inputs are found by name and how ignored files are reported."""

import os

import pytest
from PIL import Image

from yolos_jax.errors import InputError
from yolos_jax.images.reading import HEIF, image_endings
from yolos_jax.inference import inputs
from yolos_jax.inference.inputs import Input, find


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("a.jpg", "b.JFIF", "c.txt", "d.txt", "e", ".hidden.jpg", "f.mp4", "g.heic", "h5.h5",
                 "in/a.png", "in/deep/z.webp", "in/.git/x.png"):  # fmt: skip
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "image_endings", lambda: image_endings() - HEIF)  # as if pillow-heif were not installed
    return "photos"


def images(*names):
    return [Input("image", os.path.join("photos", name)) for name in names]


def test_folders_and_ignored_files(folder):
    found = find([folder])
    assert found.inputs == images("a.jpg", "b.JFIF")
    (note,) = found.notes
    assert note.startswith("ignored in the folder photos: 5 other files (.txt 2, ") and "no extension 1" in note
    assert ".h5 1" in note and ".heic 1" in note and "yolos-jax[heif]" in note
    assert note.endswith("1 hidden file, 1 video (pass each one by name), 1 folder (use --recursive to include them)")
    assert (
        find([folder], recursive=True)
        .notes[0]
        .endswith("1 hidden folder, 1 hidden file, 1 video (pass each one by name)")
    )


def test_recursion_follows_links_once(folder):
    os.symlink(os.path.abspath(folder), os.path.join(folder, "in", "loop"))
    found = find([folder], recursive=True)
    assert sorted(found.inputs) == sorted(images("a.jpg", "b.JFIF", "in/a.png", "in/deep/z.webp"))
    assert "folder (" not in found.notes[0]


def test_patterns(folder):
    assert find(["photos/*.j*"]).inputs == images("a.jpg")  # patterns are case-sensitive
    assert find(["photos/**/*.??g"]).inputs == images("a.jpg", "in/a.png")
    found = find(["photos/**"])
    assert found.inputs == images("a.jpg", "b.JFIF", "in/a.png", "in/deep/z.webp")
    assert "ignored in the pattern photos/**: 5 other files" in found.notes[0]
    assert find(["photos/*"]).notes[0].endswith("1 video (pass each one by name), 1 folder (use ** to include them)")
    (named := folder + "/[x].jpg") and Image.new("RGB", (8, 8)).save(named)
    assert find([named]).inputs == images("[x].jpg")  # a file with that literal name takes precedence
    os.rename(folder, "photos [2024]")  # as does a folder
    assert len(find(["photos [2024]"]).inputs) == 3
    for pattern in ("photos [2024]/*.jpg", os.path.abspath("photos [2024]/*.jpg")):
        assert [os.path.basename(one.name) for one in find([pattern]).inputs] == ["[x].jpg", "a.jpg"]
    assert len(find(["photos [2024]/**/*.webp"]).inputs) == 1 and len(find(["photo? [[]2024]/a.*"]).inputs) == 1


def test_lists(folder, tmp_path):
    """A list has one path per line or a column of paths, relative to the current folder or the list's folder."""
    listed = tmp_path / "photos" / "list.txt"
    listed.write_bytes(
        "\ufeff# mine\nphotos/a.jpg\r\n\n  in/a.png  \nphotos/a.jpg\nin\nfilm.MKV\nhttp://h/x.jpg\n".encode()
    )
    found = find(["photos/list.txt", "photos/b.JFIF"])
    assert found.inputs == [*images("a.jpg", "in/a.png", "in/a.png"), Input("video", "film.MKV"),
                            Input("address", "http://h/x.jpg"), *images("b.JFIF")]  # fmt: skip
    assert found.notes[0] == "photos/list.txt lists 5 inputs" and "1 folder (use --rec" in found.notes[1]
    for name, text in (
        ("a.csv", "id,Image Path,x0\n1,photos/a.jpg,3\n1,photos/a.jpg,5\n2,photos/b.JFIF,5\n"),
        ("b.csv", 'id;file\n1;"photos/a.jpg"\n2;photos/b.JFIF\n'),
        ("c.tsv", "path\tlabel\nphotos/a.jpg\tcat\nphotos/b.JFIF\tdog\n"),
        ("d.csv", "photos/a.jpg\nphotos/b.JFIF\n"),
    ):
        (tmp_path / name).write_text(text)
        found = find([name])
        assert found.inputs == images("a.jpg", "b.JFIF")
    os.rename("photos", "photos.txt")
    assert len(find(["photos.txt"]).inputs) == 2  # a folder, not a list
    assert find(["b.csv"]).notes == ["b.csv lists 2 inputs in column file"]


@pytest.mark.parametrize("name, content, words", [
    ("x.txt", b"# nothing\n\n", "the list x.txt is empty"),
    ("x.csv", b"", "the list x.csv is empty"),
    ("x.csv", b"a,b\n1,2\n", "x.csv has no column of paths, only a, b; rename the column of paths to path."),
    ("x.csv", b"id,path\n1,a.jpg\n2\n", "row 3 of x.csv has no column path"),
    ("x.txt", b"a.jpg\ny.txt\n", "the list x.txt contains another list, y.txt"),
    ("x.txt", b"\xff\xfea", "the list x.txt is UTF-16"),
    ("y.txt", b"", "the list x.txt does not exist"),
])  # fmt: skip
def test_invalid_lists(folder, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as refusal:
        find(["x.csv" if name.endswith("csv") else "x.txt"])
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("given, words", [
    ("photos/in/deep/*.jpg", "the pattern photos/in/deep/*.jpg contains no images"),
    ("photos/*.txt", "the pattern photos/*.txt contains no images that Pillow can read (2 other files (.txt 2))"),
    ("nothing/**/*.jpg", "contains no images that Pillow can read."),
    ("ftp://example.org/a.jpg", "use http(s) for images, or rtsp, rtsps, rtmp for streams"),
    ("https://example.org/film.mp4?x=1", "URL of a video"),
    ("a" * 5000, "cannot be accessed"),
])  # fmt: skip
def test_inputs_without_images(folder, given, words):
    with pytest.raises(InputError) as refusal:
        find([given])
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_files_urls_videos_and_cameras():
    given = ["a.odd", "film.MKV", "camera:1", "http://h/x/My%20cat%21.jpg?s=2", "https://h/", "https://h/..%2f..%2fetc"]
    found = find(given).inputs
    assert [one.kind for one in found] == ["image", "video", "camera", "address", "address", "address"]
    assert [one.stem for one in found] == ["a", "film", "camera1", "My_cat", "h", "etc"]
    assert [one.moves for one in found] == [False, True, True, False, False, False]
    films = find([f"film{ending}" for ending in (".ts", ".MTS", ".m2ts", ".wmv", ".3gp")]).inputs
    assert {one.kind for one in films} == {"video"}
    (stream,) = find(["rtsp://me:secret@10.0.0.2:554/"]).inputs
    assert stream.kind == "stream" and stream.moves and stream.endless and stream.stem == "10.0.0.2"


def test_extensions_match_pillow(tmp_path):
    """Every extension that Pillow can both write and open counts as an image extension."""
    Image.init()
    picture, tried = Image.new("RGB", (16, 16), (200, 30, 40)), set()
    for ending, kind in Image.registered_extensions().items():
        if kind in Image.SAVE and kind in Image.OPEN:
            try:
                picture.save(tmp_path / f"x{ending}", kind)
            except (OSError, ValueError):  # the format does not support RGB or cannot be written here
                continue
            tried.add(ending)
    assert {".jfif", ".avif", ".jp2", ".tga", ".ico", ".bmp", ".webp", ".tif"} <= tried <= image_endings()
    assert not {".h5", ".grib", ".mpg", ".pdf", ".mp4", ".txt"} & image_endings()
