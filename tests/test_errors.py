"""Error messages and exit codes of programs."""

import contextlib
import errno
import os

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tiny_weights import TINY, random_params

from yolos_jax import Detector
from yolos_jax.errors import InputError, check_empty, check_path, clear_errors, make_folder
from yolos_jax.inference.video import DrawnVideo
from yolos_jax.tasks.pictures.plotting import save_figure
from yolos_jax.tasks.sinks.tensorboard import Board
from yolos_jax.weights import export_huggingface, load_weights


@pytest.mark.parametrize(
    "error, code, words",
    [
        (InputError("the file a.json is absent."), 2, "error: the file a.json is absent."),
        (OSError(errno.ENOSPC, "No space left on device", "out/1.png"), 2, "error: out/1.png: No space left"),
        (OSError(errno.EISDIR, "Is a directory", "1.png"), 2, "error: 1.png: Is a directory; choose another path."),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_print_one_line_and_set_the_exit_code(capsys, error, code, words):
    with pytest.raises(SystemExit) as stop, clear_errors():
        raise error
    printed = capsys.readouterr()
    assert stop.value.code == code and printed.err.startswith(words) and printed.err.count("\n") == 1


@contextlib.contextmanager
def nearly_full(most=20_000):
    """Limits files to `most` bytes, so that libraries fail as on a full disk, but with the error EFBIG."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)


def plot(folder):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().imshow(NOISE)
    save_figure(figure, folder / "a.png")


def records(folder):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(folder / "a"), "group_size:1")
    writer.write(NOISE.tobytes())
    writer.close()


def curves(folder):
    board = Board(folder, 0)
    for step in range(1000):
        board.add(step, {"loss": 1.0})


def film(folder):
    pytest.importorskip("av")
    drawn = DrawnVideo(folder / "a.mp4")
    with contextlib.closing(drawn):
        for number in range(9):
            drawn.add(Image.fromarray(np.roll(NOISE, number * 7)), number / 10)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: save_file({"a": NOISE.astype(np.float32)}, folder / "a.safetensors"),
        lambda folder: Image.fromarray(NOISE).save(folder / "a.png"),
        lambda folder: (folder / "a.json").write_text("x" * 10**6),
        lambda folder: np.savez(folder / "a.npz", a=NOISE),
        plot,
        records,
        curves,
        film,
    ],
    ids=["safetensors", "Pillow", "text", "numpy", "matplotlib", "array_record", "TensorBoard", "PyAV"],
)
def test_errors_for_a_full_disk_name_the_folder(tmp_path, capfd, write):
    with pytest.raises(SystemExit) as stop, clear_errors(), nearly_full():
        write(make_folder(tmp_path / "out"))
    told = capfd.readouterr().err
    words = f"{os.strerror(errno.EFBIG)}; check the free space and the permissions there."
    assert stop.value.code == 2 and told.count("error: ") == told.count("\n") == 1
    assert told.startswith(f"error: {tmp_path / 'out'}") and told.endswith(f": {words}\n")


@pytest.mark.parametrize(  # messages recorded on a 200 kB tmpfs
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError(
            "write() failed: No space left on device; writing /out/a; at byte 204800; Could not submit chunk: 2"
        ),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_folders_of_an_earlier_program_are_not_named(tmp_path, capsys, error):
    make_folder(tmp_path / "earlier")
    with pytest.raises(SystemExit), clear_errors():
        make_folder(tmp_path / "out")
        make_folder(tmp_path / "plots")
        raise error
    where = f"{tmp_path / 'out'} or {tmp_path / 'plots'}"
    assert capsys.readouterr().err.startswith(f"error: {where}: No space left on device; check the free space")


def test_export_huggingface_names_the_folder_if_the_disk_is_full(tmp_path):
    with (
        pytest.raises(InputError, match=f"folder {tmp_path}/hf could not be written .*; check the free space"),
        nearly_full(),
    ):
        export_huggingface(random_params(TINY), TINY, None, tmp_path / "hf")


def test_bugs_keep_their_traceback():
    for bug in (ValueError("bug"), OSError(errno.EBADF, "bug"), OSError("bug"), RuntimeError("bug of memory")):
        with pytest.raises(type(bug), match="bug"), clear_errors():
            raise bug


def test_invalid_paths(tmp_path):
    (tmp_path / "file").write_text("")
    for possible in (tmp_path, tmp_path / "file", tmp_path / "absent" / "x", tmp_path / "file" / "x", "org/name"):
        check_path(possible)
    for impossible in (tmp_path / ("n" * 300), "n" * 5000, "a\0b"):
        for load in (check_path, check_empty, Detector.load, load_weights):
            with pytest.raises(InputError, match=r"cannot be accessed \(.+\); ") as told:
                load(impossible)
            assert len(str(told.value)) < 400


def test_output_folders_must_be_empty(tmp_path):
    check_empty(tmp_path)
    check_empty(tmp_path / "new")
    (tmp_path / "file").write_text("")
    for used in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="exists and is not an empty folder"):
            check_empty(used)


def test_folders_are_checked_before_work_begins(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        with pytest.raises(InputError, match="cannot be written to"):
            make_folder(bad)
