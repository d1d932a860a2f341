"""Files with several images, as written by Pillow: which frames are read, and how skipped frames are reported."""

import numpy as np
import pytest
from made_coco import coco_split, make_coco
from PIL import Image, TiffImagePlugin

from yolos_jax.datasets import class_folders
from yolos_jax.datasets.class_folders import ClassFolders
from yolos_jax.datasets.frames import animation, content_of, frames_in, open_page
from yolos_jax.datasets.headers import header_of, left_out
from yolos_jax.images.reading import UnreadableImage, image_endings

LASTS = 100, 40, 2000  # durations in milliseconds


def grey(value, size=(32, 24)):
    return Image.new("RGB", size, (value,) * 3)


def several(path, **options):
    """Writes a file with three grey frames (values 40, 90 and 140), or with pages if the format has no durations."""
    first, *others = [grey(value) for value in (40, 90, 140)]
    first.save(path, save_all=True, append_images=others, **options)
    return path


@pytest.mark.parametrize("name, options", [
    ("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True}), ("a.avif", {"quality": 100}),
    ("standin.png", {"default_image": True}),
])  # fmt: skip
def test_frames_and_times_of_animations(tmp_path, name, options):
    if name.endswith(".avif") and ".avif" not in image_endings():
        pytest.skip("this version of Pillow cannot read AVIF")
    lasts = LASTS[1:] if "standin" in name else LASTS
    path = several(tmp_path / name, duration=list(lasts), **options)
    assert content_of(path).animated and header_of(path).frames == len(lasts)
    found = list(animation(path, upright=True, stretch=False))
    assert [one.lasts * 1000 for one in found] == pytest.approx(lasts)
    assert [one.seconds for one in found] == pytest.approx(np.cumsum([0, *lasts[:-1]]) / 1000)
    means = [np.mean(one.image) for one in found]
    np.testing.assert_allclose(means, [40, 90, 140][-len(lasts) :], atol=2)


def test_frames_without_a_duration_are_timed_as_in_browsers(tmp_path):
    assert [one.lasts for one in animation(several(tmp_path / "a.gif"), False, False)] == [0.1] * 3


def test_smaller_copies_and_masks_are_not_pages(tmp_path):
    """A TIFF file structured like a map: a page, a half-size copy of it, a mask, and a second page."""
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "map.tif", True) as file:
        for value, kind, side in ((40, 0, 32), (41, 1, 16), (42, 4, 32), (90, 2, 32)):
            grey(value, (side, side)).save(file, "TIFF", tiffinfo={254: kind})
            file.newFrame()
    assert content_of(tmp_path / "map.tif") == (False, [0, 3]) and header_of(tmp_path / "map.tif").frames == 2
    pages = [open_page(tmp_path / "map.tif", page, True, False) for page in (1, 4)]
    assert [np.mean(page) for page in pages] == [40, 90]
    with pytest.raises(UnreadableImage, match=r"page 9 of .*map.tif cannot be read"):
        open_page(tmp_path / "map.tif", 9, True, False)


@pytest.mark.parametrize("ending", ["gif", "webp", "tif"])
def test_files_with_a_damaged_end(tmp_path, ending):
    """Frames before the damage are counted, and reading beyond them raises an error."""
    data = several(tmp_path / f"a.{ending}", duration=100).read_bytes()
    (tmp_path / f"b.{ending}").write_bytes(data[: len(data) * 2 // 3])
    assert header_of(tmp_path / f"b.{ending}").frames <= 3
    try:
        assert len(list(animation(tmp_path / f"b.{ending}", True, False))) <= 3
    except UnreadableImage as error:
        assert f"b.{ending} cannot be read" in str(error)


def test_previews_are_not_frames(tmp_path):
    """Many cameras save MPO files with the extension .jpg."""
    grey(40).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[grey(90)])
    assert Image.open(tmp_path / "a.jpg").n_frames == 2 and header_of(tmp_path / "a.jpg").frames == 1
    assert frames_in(grey(1)) == [0]


def test_skipped_frames_are_counted(tmp_path):
    files = [several(tmp_path / "a.gif"), several(tmp_path / "b.tif")]
    grey(1).save(tmp_path / "c.png")
    given = [*files, files[0].read_bytes(), str(tmp_path / "c.png"), Image.open(files[0]), tmp_path / "absent.gif"]
    (note,) = left_out(given)
    assert note.startswith("the input has 3 files with several frames or pages (for example ")
    assert note.endswith("only the first of each is used, and the other 6 are skipped")
    assert left_out(given[3:]) == []


def test_a_detection_split_reports_frames(tmp_path):
    make_coco(tmp_path, [(32, 24)] * 2)
    several(tmp_path / "train2017" / "1.jpg", format="GIF")  # the format is detected from the content
    notes = coco_split(tmp_path, "train2017").notes
    origin = tmp_path / "annotations" / "instances_train2017.json"
    assert [note for note in notes if "frames" in note] == [
        f"{origin} has 1 file with several frames or pages (for example {tmp_path / 'train2017' / '1.jpg'}): "
        "only the first of each is used, and the other 2 are skipped"
    ]


def test_class_folders_report_frames(tmp_path, monkeypatch):
    """If there are many files that are not JPEG, only some of them are checked."""
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        grey(9).save(tmp_path / "train" / name / "x.JPG")
        several(tmp_path / "train" / name / "y.gif")
    (note,) = ClassFolders(tmp_path, "train").notes
    assert "has 2 files with several frames" in note and note.endswith("and the other 4 are skipped")
    monkeypatch.setattr(class_folders, "LOOKED", 1)
    (note,) = ClassFolders(tmp_path, "train").notes
    assert "(1 of 2 files that are not JPEG were checked) has 1 file with several frames" in note
