"""Tests the data set check before training: statistics, one message for every problem, and exit codes."""

import json
import os
import subprocess
import sys

import pytest
from made_coco import box, coco_split, make_coco
from PIL import Image
from pycocotools.coco import COCO
from reference_pack import ROOT, data_folder

from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize
from yolos_jax.data.plan import TrainingPlan
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import Geometry
from yolos_jax.tools import survey


def read(root, which="train", problems=None, split=None, **options):
    """Surveys a split of a generated folder; fails if there are problems and no list `problems` to append them to."""
    found = [] if problems is None else problems
    out = survey.survey_split(
        which, lambda complain: coco_split(root, split or which, complain=complain, **options), found
    )
    assert problems is not None or not found, found
    return out


def change(root, edit, split="train"):
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_statistics_of_a_generated_split(tmp_path):
    annotations = [
        *(box(i, 1, [0, 0, 10, 10]) for i in range(3)),  # small
        box(3, 1, [0, 0, 200, 150], category=7),  # large
        box(4, 2, [0, 0, 32, 32], category=7),  # the smallest medium size
        box(5, 2, [0, 0, 40, 40], area=900),  # small, by its annotated area
        box(6, 2, [0, 0, 40, 40], iscrowd=1),
        box(7, 2, [300, 0, 40, 40]),  # outside the image
        box(8, 2, [4, 4, 0, 3]),
    ]
    sizes = [(200, 150), (100, 120), (200, 150), (64, 48)]
    split = read(make_coco(tmp_path, sizes, "train", annotations), num_classes=9)
    assert survey.box_sizes(split.source.examples) == {"small": 4, "medium": 1, "large": 1}
    text = "\n".join(survey.overview(split))
    for words in (
        "images          4, 2 of them without boxes",
        "6; 1 crowd and 2 empty boxes skipped",
        "1.50 on average, 4 at most (image id 1)",
        "66.7% small, 16.7% medium, 16.7% large",
        "short 48 to 150, median 125; long 64 to 200, median 160 pixels",
        "200x150 (2), 100x120 (1), 64x48 (1)",
        f"{1:>5}{1:>6}{4:>7}  ",
        f"{7:>5}{7:>6}{2:>7}  ",
    ):
        assert words in text
    assert "never used" not in text


@pytest.mark.parametrize("count", [3, 50])
def test_category_table(tmp_path, count):
    """A few categories have one row each, and many share rows. All are listed, and those without boxes are named."""
    categories = [{"id": 2 * i + 5, "name": f"thing{i}"} for i in range(count)]
    annotations = [box(i, 1, [1, 1, 5, 5], category=5 if i < 7 else 9) for i in range(9)]
    root = make_coco(tmp_path, [(64, 48)], "train", annotations, categories)
    lines = survey.overview(read(root, categories="contiguous"))
    words = " ".join(lines).split()
    for i in range(count):
        place = words.index(f"thing{i}")
        assert words[place - 3 : place] == [str(2 * i + 5), str(i), str({0: 7, 2: 2}.get(i, 0))]
    assert max(map(len, lines[1:])) < 130 and (len(lines) < count + 9) == (count == 50)
    (unused,) = [i for i, line in enumerate(lines) if "never used" in line]
    named = " ".join(lines[unused:]).replace(",", "").split()[2:]
    assert named == [f"thing{i}" for i in range(count) if i not in (0, 2)]
    assert f"{count}, {count - 2} of them without boxes" in " ".join(lines)


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_statistics_match_pycocotools(split, capsys):
    found = read(data_folder("coco_tiny80"), split=split, num_classes=91)
    coco = COCO(str(found.source.origin))
    text = "\n".join(survey.overview(found))
    assert len(coco.cats) == 80
    for label, category in coco.cats.items():
        count = len(coco.getAnnIds(catIds=[label], iscrowd=False))
        assert f"{label:>5}{label:>6}{count:>7}  {category['name']}" in text
    bounds = [0, 32**2], [32**2, 96**2], [96**2, 1e10]
    assert list(survey.box_sizes(found.source.examples).values()) == [
        len(coco.getAnnIds(areaRng=limits, iscrowd=False)) for limits in bounds
    ]
    each = [len(coco.getAnnIds([i], iscrowd=False)) for i in coco.getImgIds()]
    for words in (f"{each.count(0)} of them without boxes", f"boxes           {sum(each)}; ", f"{max(each)} at most"):
        assert words in text
    assert not survey.image_problems([found])


def test_training_plan(tmp_path):
    """Three images of 12 patches and five of 18, in batches of two: one of the three is padded by 6 patches."""
    train = read(make_coco(tmp_path, [(64, 48)] * 3 + [(48, 96)] * 5, "train"))
    problems = []

    def make(sizes, batch=2):
        return TrainingPlan(sizes, Pipeline.of(Geometry.of(48, 96, 16, 10)), batch, 2, 1, 0)

    plan = survey.make_plan(train, make, problems)
    assert survey.bucket_use(plan) == {12: 2, 18: 6} and not problems
    text = " ".join(" ".join(survey.plan_lines(plan)).split())
    assert "4 steps of 2 images per epoch, 0 images dropped" in text and "12: 2, 18: 6" in text
    assert f"{6 / (2 * 12 + 6 * 18):.2%} of the patches" in text
    assert survey.make_plan(train, lambda sizes: make(sizes, 9), problems) is None
    assert "instances_train.json: 8 training images do not fill one batch of 9" in problems[0].sentence


def test_buckets_with_augmentation(tmp_path):
    train = read(make_coco(tmp_path, [(64, 48), (48, 64), (70, 30)] * 4, "train"))
    draw = Pipeline(Resize((48, 64, 80), 128), before=(Flip(), Crop(sides=(64,), range=(32, 64))))
    plan = survey.make_plan(train, lambda sizes: TrainingPlan(sizes, draw, 5, 3, 7, 0), [])
    assert sum(survey.bucket_use(plan).values()) == 10 and plan.dropped == 2
    assert list(survey.bucket_use(plan)) == plan.edges


@pytest.fixture
def broken(tmp_path):
    """Two splits with one problem of each kind, and keywords of the messages."""
    annotations = [
        box(1, 1, [4, 4, 20, 10]),
        box(1, 2, [4, 4, 20, 10]),
        box(3, 1, [4, 4, float("nan"), 10]),
        box(4, 99, [1, 1, 2, 2]),
        box(5, 3, [1, 1, 2, 2], category=6),
    ]
    root = make_coco(tmp_path, [(64, 48)] * 6, "train", annotations)
    names = [{"id": 1, "name": "uno"}, {"id": 3, "name": "three"}, {"id": 7, "name": "seven"}]
    make_coco(root, [(50, 60)] * 2, "val", [box(8, 1, [1, 1, 5, 5], category=3)], names)
    added = {50: "./3.jpg", 51: "gone.jpg", 52: "../val/1.jpg"}
    images = [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in added.items()]
    change(root, lambda c: c["images"].extend(images))
    path = root / "train" / "4.jpg"
    path.write_bytes(path.read_bytes()[:400])
    (root / "train" / "5.jpg").write_text("no image")
    Image.new("RGB", (10, 10)).save(root / "val" / "2.jpg")
    files = {which: str(root / "annotations" / f"instances_{which}.json") for which in ("train", "val")}
    return root, [
        (files["train"], "annotation id 3 of image id 1", "4 finite numbers"),
        (files["train"], "annotates image id 99"),
        (files["train"], "annotation id 5 of image id 3", "category id 6"),
        (files["train"], "image id 51", "gone.jpg does not exist"),
        (files["train"], "image id 52", "is outside"),
        (files["train"], "3.jpg is listed under the image ids 3, 50"),
        (files["train"], "annotation id 1 is used by 2 annotations"),
        (files["val"], "annotation id 8 of image id 1", "category id 3"),
        (files["val"], "category id 1 ('uno')", "calls 'one'", files["train"]),
        (files["val"], "category id 3 ('three')", "lacks", files["train"]),
        (str(root / "train" / "4.jpg"), "image id 4 in", "cannot be read"),
        (str(root / "train" / "5.jpg"), "image id 5 in", "cannot be read"),
        (str(root / "val" / "2.jpg"), "image id 2", "10x10", "50x60"),
    ]


def test_reports_each_problem_once(broken):
    root, wanted = broken
    problems = []
    train = read(root, problems=problems)
    val = read(root, "val", problems, category_ids=train.source.category_ids, num_classes=train.source.num_classes)
    # Category id 3 is one of the raw labels 0..7, so only the comparison of the two files finds this problem.
    assert not any("annotation id 8" in p.sentence for p in problems)
    problems.clear()
    train = read(root, problems=problems, categories="contiguous")
    val = read(root, "val", problems, category_ids=train.source.category_ids, num_classes=train.source.num_classes)
    problems += survey.category_problems(train, val)
    problems += survey.image_problems([train, val])
    for file, *words in wanted:
        matching = [p for p in problems if p.file == file and all(word in p.sentence for word in [file, *words])]
        assert len(matching) == 1, (words, matching)
    assert len(problems) == len(wanted) and not any("\n" in p.sentence for p in problems)
    assert survey.verdict(problems) == "13 problems in 5 files"
    assert len(train.source.examples) == 7 and "of the 9 images" in " ".join(survey.notes([train, val], 100))


def test_decodes_shared_images_once(tmp_path, monkeypatch):
    root = make_coco(tmp_path, [(64, 48)] * 3, "train")
    train, val = read(root), read(root, "val", split="train")
    (root / "train" / "2.jpg").write_bytes(b"")
    opened, usual = [], DataSet.read
    monkeypatch.setattr(DataSet, "read", lambda self, e: opened.append(e.image_id) or usual(self, e))
    assert [p.file for p in survey.image_problems([train, val])] == [str(root / "train" / "2.jpg")]
    assert sorted(opened) == [1, 2, 3]
    assert any(note.startswith("3 images listed by both splits") for note in survey.notes([train, val], 100))


def test_notes(tmp_path):
    annotations = [box(i, i % 3 + 1, [1, 1, 5, 5]) for i in range(8)]  # 3, 3 and 2 boxes
    root = make_coco(tmp_path, [(64, 48)] * 3, "train", annotations)
    make_coco(root, [(64, 48)] * 2, "val")
    train, val = read(root), read(root, "val")
    assert survey.notes([train, val], 3) == []
    (note,) = survey.notes([train, val], 2)
    assert note.startswith("2 images of the train split") and note.endswith("image id 1 (3), image id 2 (3)")
    (root / "val" / "deep").mkdir()
    Image.new("RGB", (8, 8)).save(root / "val" / "deep" / "a.PNG")
    (root / "val" / "notes.pdf").write_text("no image")
    left, note = survey.notes([train, val], 100)
    assert left == f"skipped in {root / 'val'}: 1 other file (.pdf 1), for example {root / 'val' / 'notes.pdf'}"
    assert note.startswith(f"1 image in {root / 'val'} ") and note.endswith("a.PNG")
    (note, *_) = survey.notes([read(root, max_images=2), val], 100)
    assert note == "2 of the 3 images listed by the train split are used"


def test_splits_that_share_an_image_folder(tmp_path):
    root = make_coco(tmp_path, [(64, 48)] * 3, "all", [])
    whole = json.loads((root / "annotations" / "instances_all.json").read_text())
    for which, images in (("train", whole["images"][:1]), ("val", whole["images"][1:2])):
        (root / "annotations" / f"instances_{which}.json").write_text(json.dumps(whole | {"images": images}))
    splits = [read(root, which, image_folder=root / "all") for which in ("train", "val")]
    first, note = survey.notes(splits, 100)
    assert "no boxes to score" in first
    assert note.startswith(f"1 image in {root / 'all'} ") and note.endswith("3.jpg")


def test_unreadable_splits(tmp_path):
    root = make_coco(tmp_path, [(64, 48)] * 2, "train")
    with pytest.raises(InputError, match=r"val does not exist \(the val split, set by data.val_split, "):
        read(root, "val")
    for path in (root / "train").iterdir():
        path.unlink()
    problems = []
    with pytest.raises(InputError, match="after skipping 2 invalid entries, .*has no usable images"):
        read(root, "train", problems)
    assert ["image id 1" in problems[0].sentence, "image id 2" in problems[1].sentence] == [True, True]


def check(root, *flags):
    """Runs yolos-check-data on a generated folder."""
    command = [
        sys.executable,
        "-m",
        "yolos_jax.programs.check_data",
        "--config=configs/finetune_custom.py",
        f"--config.data.root={root}",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command += ["--config.train.batch_size=2", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_program_lists_all_problems(broken):
    root, wanted = broken
    done = check(root)
    assert done.returncode == 1, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    told = [line for line in lines if line.startswith("problem: ")]
    assert len(told) == 13 and lines[-1] == "13 problems in 5 files"
    assert all(any(all(word in line for word in words) for line in told) for words in wanted)
    without = check(root, "--noimages")
    assert without.returncode == 1 and without.stdout.splitlines()[-1] == "10 problems in 2 files"
    assert "decoding" not in without.stderr


def test_program_without_problems_or_without_data(tmp_path):
    root = make_coco(tmp_path, [(64, 48)] * 5, "train")
    gone = check(root)
    assert gone.returncode == 2 and "Traceback" not in gone.stderr
    assert gone.stderr.startswith("error: ") and "the val split, set by data.val_split" in gone.stderr
    make_coco(root, [(64, 48)] * 2, "val")
    done = check(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "no problems found" and "problem: " not in done.stdout
    assert "2 steps of 2 images per epoch, 1 image dropped" in done.stdout
    change(root, lambda c: c["images"].clear(), "val")
    empty = check(root, "--config.data.categories=raw")
    assert empty.returncode == 2 and "lists no images" in empty.stderr
    assert "problem:" not in empty.stdout  # the orphaned annotations are not reported again


def test_does_not_import_jax():
    code = "import sys, yolos_jax.tools.survey; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, cwd=ROOT).returncode == 0
