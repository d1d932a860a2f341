"""Tests that threads and worker processes load the same batches, and the handling of unreadable images."""

import contextlib
import zlib

import pytest
from made_coco import box, coco_split, make_coco

from yolos_jax.data import loader
from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.loader import LoadStep, Share, load_batches
from yolos_jax.data.plan import EvaluationPlan, TrainingPlan
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import Geometry

DRAW = Pipeline(Resize((32, 48, 64), 96), before=(Flip(), Crop(sides=(48, 64), range=(32, 60))))
PLAIN = Pipeline.of(Geometry.of(48, 96, 16, 84))
SIZES = [(64, 48), (48, 64), (100, 40), (80, 80), (50, 90), (70, 60)] * 3
BROKEN = 4, 5, 11  # includes two adjacent images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    annotations = [box(2 * i, i, [4, 4, 20, 10]) for i in range(1, len(SIZES) + 1)]
    annotations += [box(2 * i + 1, i, [10, 20, 20, 15], category=7) for i in range(1, len(SIZES), 3)]
    return make_coco(tmp_path_factory.mktemp("images"), SIZES, annotations=annotations)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A data set with truncated images."""
    root = make_coco(tmp_path_factory.mktemp("broken"), SIZES)
    for index in BROKEN:
        path = image(root, index)
        path.write_bytes(path.read_bytes()[:-200])
    return root


def image(root, index: int):
    return root / "train2017" / f"{index + 1}.jpg"


def training(root, seed=0, share=loader.ALL) -> LoadStep:
    source = coco_split(root, "train2017")
    return detection_work(source, TrainingPlan(source.examples.sizes, DRAW, 4, 3, 3, seed), 16, 84, share)


def evaluation(root, batch_size=4) -> LoadStep:
    source = coco_split(root, "train2017")
    return detection_work(source, EvaluationPlan(source.examples.sizes, PLAIN, batch_size, 2), 16, 84)


def slots_of(work: LoadStep, loaded) -> list[tuple]:
    """The complete content of each slot of a batch, with a checksum of the pixels."""
    ids = [int(work.view.source.examples.image_ids[i]) if i >= 0 else None for i in loaded.indices]
    assert loaded.real == sum(int(h * w) for (h, w), valid in zip(loaded.batch.grid, loaded.batch.valid) if valid)
    fields = [field.tolist() if field.ndim < 3 else [zlib.crc32(row) for row in field] for field in loaded.batch]
    return [(loaded.step, *values) for values in zip(ids, *fields)]


def run(work: LoadStep, start=0, stop=None, workers=0) -> list[list[tuple]]:
    with contextlib.closing(load_batches(work, start, len(work.plan) if stop is None else stop, workers)) as batches:
        return [slots_of(work, loaded) for loaded in batches]


def test_batches_contain_all_images_and_boxes(folder):
    work, seen = evaluation(folder), {}
    for slots in run(work):
        for _, image_id, patches, grid, labels, _, count, valid in slots:
            assert valid == (image_id is not None)
            if valid:
                seen[image_id] = grid, labels[:count], patches
            else:
                assert grid == [1, 1] and count == 0 and set(labels) == {-1}
    assert sorted(seen) == list(range(1, len(SIZES) + 1))
    by_size = {
        (64, 48): [3, 4],
        (48, 64): [4, 3],
        (100, 40): [2, 5],
        (80, 80): [3, 3],
        (50, 90): [5, 3],
        (70, 60): [3, 3],
    }
    for image_id, (grid, labels, _) in seen.items():
        assert grid == by_size[SIZES[image_id - 1]]
        assert labels == ([1, 7] if image_id % 3 == 1 else [1])
    assert len({patches for *_, patches in seen.values()}) == len(SIZES)


@pytest.fixture(scope="module")
def whole(folder):
    """All batches of a run, loaded by threads."""
    batches = run(training(folder))
    assert len(batches) == 12 and all(len(slots) == 4 for slots in batches)
    return batches


@pytest.mark.timeout(120)
def test_worker_process_loads_the_same_batches(folder, whole):
    """Two workers are tested in `test_substitutes_are_deterministic`."""
    assert run(training(folder), workers=1) == whole


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [0, 1])
def test_two_shares_form_the_batch(folder, whole, workers):
    first, second = (run(training(folder, share=Share(i, 2)), workers=workers) for i in range(2))
    assert [a + b for a, b in zip(first, second, strict=True)] == whole


def test_batches_match_the_plan(folder, whole):
    plan = training(folder).plan
    for step, slots in enumerate(whole):
        planned = plan.batch(step)
        assert [image_id - 1 for _, image_id, *_ in slots] == planned.indices.tolist()
        assert [grid for _, _, _, grid, *_ in slots] == (planned.views.size[:, ::-1] // 16).tolist()


def test_seed_changes_all_batches(folder, whole):
    other = run(training(folder, seed=1))
    assert len(other) == len(whole) and not any(a == b for a, b in zip(other, whole))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("start, workers", [(1, 0), (5, 2), (11, 1), (12, 0)])
def test_loading_can_start_at_any_step(folder, whole, start, workers):
    assert run(training(folder), start, workers=workers) == whole[start:]


def test_batch_size_must_be_divisible(folder):
    with pytest.raises(InputError, match="a batch of 4 images cannot be split among 3 processes"):
        training(folder, share=Share(0, 3))


# Unreadable images


def readable_substitute(plan, step: int, index: int) -> int:
    """The next readable image, in source order, that fits the bucket."""
    views, tokens = plan.views(step // plan.steps_per_epoch), plan.batch(step).tokens
    after = [(index + k) % len(SIZES) for k in range(1, len(SIZES))]
    return next(i for i in after if i not in BROKEN and views.of(i).patches(16) <= tokens)


@pytest.mark.timeout(120)
def test_substitutes_are_deterministic(broken):
    """Two workers load the same batches as threads and report the same unreadable images."""
    work, replaced = training(broken), []
    with contextlib.closing(load_batches(work, 0, len(work.plan), 2)) as batches:
        of_workers = [(slots_of(work, loaded), loaded.skipped) for loaded in batches]
    with contextlib.closing(load_batches(work, 0, len(work.plan))) as batches:
        for loaded, same in zip(batches, of_workers, strict=True):
            assert (slots_of(work, loaded), loaded.skipped) == same
            planned = work.plan.batch(loaded.step).indices.tolist()
            wanted = [readable_substitute(work.plan, loaded.step, i) if i in BROKEN else i for i in planned]
            assert loaded.indices.tolist() == wanted and loaded.batch.valid.all()
            lost = [i for i in planned if i in BROKEN]
            named = [i for i in BROKEN if any(str(image(broken, i)) in said for said in loaded.skipped)]
            assert set(lost) <= set(named) and bool(lost) == bool(loaded.skipped)
            replaced += lost
    assert set(replaced) == set(BROKEN)


def test_evaluation_leaves_slots_of_unreadable_images_empty(broken):
    work, found, skipped = evaluation(broken), [], []
    for loaded in load_batches(work, 0, len(work.plan)):
        images = loaded.indices[loaded.indices >= 0].tolist()
        assert loaded.batch.valid.tolist() == [slot < len(images) for slot in range(4)]
        assert images == [i for i in work.plan.batch(loaded.step).indices.tolist() if i not in BROKEN]
        assert loaded.batch.count[len(images) :].sum() == 0 and not loaded.batch.patches[len(images) :].any()
        found += images
        skipped += loaded.skipped
    assert sorted(found) == [i for i in range(len(SIZES)) if i not in BROKEN]
    assert len(skipped) == len(BROKEN)
    for i in BROKEN:
        assert sum(str(image(broken, i)) in sentence for sentence in skipped) == 1


def test_training_stops_without_readable_images(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "SUBSTITUTES", 3)
    root = make_coco(tmp_path, SIZES[:6])
    for index in range(6):
        image(root, index).write_bytes(b"no image")
    source = coco_split(root, "train2017")
    work = detection_work(source, TrainingPlan(source.examples.sizes, PLAIN, 2, 1, 1, 0), 16, 84)
    with pytest.raises(InputError, match=r"3 images in a row cannot be read. The last error: .*\.jpg"):
        list(load_batches(work, 0, 1))
