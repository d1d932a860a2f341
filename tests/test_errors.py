"""What a program says, and its exit code, when something goes wrong."""

import errno

import pytest

from yolos_jax import Detector
from yolos_jax.errors import InputError, check_empty, check_path, clear_errors, make_folder
from yolos_jax.weights import load_weights


@pytest.mark.parametrize(
    "error, code, words",
    [
        (InputError("the file a.json is absent."), 2, "error: the file a.json is absent."),
        (OSError(errno.ENOSPC, "No space left on device", "out/1.png"), 2, "error: out/1.png: No space left"),
        (OSError(errno.EISDIR, "Is a directory", "1.png"), 2, "error: 1.png: Is a directory; give another path."),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_one_line_and_an_exit_code(capsys, error, code, words):
    with pytest.raises(SystemExit) as stop, clear_errors():
        raise error
    printed = capsys.readouterr()
    assert stop.value.code == code and printed.err.startswith(words) and printed.err.count("\n") == 1


def test_bugs_keep_their_traceback():
    for bug in (ValueError("bug"), OSError(errno.EBADF, "bug")):
        with pytest.raises(type(bug), match="bug"), clear_errors():
            raise bug


def test_paths_that_can_be_none(tmp_path):
    (tmp_path / "file").write_text("")
    for possible in (tmp_path, tmp_path / "file", tmp_path / "absent" / "x", tmp_path / "file" / "x", "org/name"):
        check_path(possible)
    for impossible in (tmp_path / ("n" * 300), "n" * 5000, "a\0b"):
        for load in (check_path, check_empty, Detector.load, load_weights):
            with pytest.raises(InputError, match=r"cannot be looked at \(.+\); give another path") as told:
                load(impossible)
            assert len(str(told.value)) < 400


def test_folders_in_use(tmp_path):
    check_empty(tmp_path)
    check_empty(tmp_path / "new")
    (tmp_path / "file").write_text("")
    for used in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="exists and is not an empty folder"):
            check_empty(used)


def test_folders_are_tried_before_work_begins(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        with pytest.raises(InputError, match="cannot be written to"):
            make_folder(bad)
