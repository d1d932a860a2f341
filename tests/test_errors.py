"""What a program says, and its exit code, when something goes wrong."""

import errno

import pytest

from yolos_jax.errors import InputError, exit_with_sentence, make_folder


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "error, code, words",
    [
        (InputError("the file a.json is absent."), 2, "error: the file a.json is absent."),
        (OSError(errno.ENOSPC, "No space left on device", "out/1.png"), 2, "error: out/1.png: No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_one_line_and_an_exit_code(capsys, error, code, words):
    with pytest.raises(SystemExit) as stop:
        exit_with_sentence(raising(error))
    printed = capsys.readouterr()
    assert stop.value.code == code and printed.err.startswith(words) and printed.err.count("\n") == 1


def test_bugs_keep_their_traceback():
    for bug in (ValueError("bug"), OSError(errno.EBADF, "bug")):
        with pytest.raises(type(bug), match="bug"):
            exit_with_sentence(raising(bug))


def test_folders_are_tried_before_work_begins(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        with pytest.raises(InputError, match="cannot be written to"):
            make_folder(bad)
