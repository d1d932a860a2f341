"""Tests of the page's code without Gradio, a browser or a model."""

import socket
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_export import checkpoint_in

from yolos_jax import Detector
from yolos_jax.errors import InputError
from yolos_jax.programs.page import check_free_port, host_of_a_space, images_in, main, page_of
from yolos_jax.tools.analysis.attention_maps import Seen
from yolos_jax.tools.page import gradio_page, viewer
from yolos_jax.tools.page.drawings import attention_overlay, enlarged, token_summary, with_boxes
from yolos_jax.tools.page.gradio_page import QUIET
from yolos_jax.tools.page.viewer import AttentionViewer, choices, read_statistics, token_at


@pytest.fixture(scope="module")
def look():
    """Three tokens on an image of 64x48 pixels, with 2 x 3 patches; two layers, two heads."""
    rng = np.random.default_rng(0)
    weights = rng.random((2, 2, 3, 1 + 3 + 6)).astype(np.float32)
    weights /= weights.sum(-1, keepdims=True)
    boxes = np.array([[0, 0, 60, 40], [10, 10, 20, 20], [12, 12, 50, 45]], np.float32)
    scores, labels = np.array([0.6, 0.9, 0.3], np.float32), np.array([0, 1, 1])
    names = ["cat", "dog", "dog"]
    return Seen(Image.new("RGB", (64, 48), (200, 100, 0)), (2, 3), scores, labels, names, boxes, (0, 1), weights)


def test_click_selects_the_smallest_box(look):
    assert token_at(look, 15, 15, 0.5) == 1 and token_at(look, 5, 5, 0.5) == 0
    assert token_at(look, 45, 42, 0.5) is None and token_at(look, 45, 42, 0.3) == 2
    assert token_at(look, 63, 1, 0.0) is None
    assert choices(look) == [("#1 dog 0.90", 1), ("#0 cat 0.60", 0), ("#2 dog 0.30", 2)]


def test_counts_unreadable_and_excess_files(tmp_path, monkeypatch):
    monkeypatch.setattr(viewer, "SHOWN", 3)
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    paths[1].write_bytes(b"no image")
    found = viewer.thumbnails(paths)
    assert [picture.path for picture, _ in found.pictures] == [paths[i] for i in (0, 2, 3)]
    assert (found.unreadable, found.beyond) == (1, 3)
    assert viewer.thumbnails(paths[:4])[1:] == (1, 0)


def test_display_size(look):
    assert enlarged(look.image)[0].size == (512, 384) and enlarged(look.image)[1] == 8
    large, factor = enlarged(Image.new("RGB", (4000, 1000)))
    assert large.size == (1280, 320) and factor == 0.32
    drawn = with_boxes(look, 0.95)
    assert drawn.size == (512, 384) and drawn.getextrema() == ((200, 200), (100, 100), (0, 0))


def test_overlay_brightness(look):
    weights = np.array([[0, 0.1, 0], [0, 0, 0.4]], np.float32)
    pixels = np.asarray(attention_overlay(look, weights, 1, smooth=False).convert("L"), int)
    inside = [[pixels[y * 192 + 170, x * 170 + 160] for x in range(3)] for y in range(2)]  # outside the box
    assert np.argmax(inside) == 5 and inside[0][1] > inside[0][2] == inside[1][0] == inside[1][1]
    smooth = np.asarray(attention_overlay(look, weights, 1, smooth=True).convert("L"), int)
    assert len(np.unique(smooth)) > 3 * len(np.unique(pixels))


def test_token_summary(look):
    text = token_summary(look, 2, 1, {"mean score": "0.25"})
    share = look.attention[1, :, 2, 4:].sum(-1).mean()
    assert "Token #2 dog 0.30" in text and "12, 12 to 50, 45" in text and "mean score 0.25" in text
    assert f"{share:.0%} of its attention" in text


def test_read_statistics(tmp_path):
    path = tmp_path / "tokens.csv"
    path.write_text("token,x,kind\n3,0.123456,small\n0,2,large\n")
    assert read_statistics(path) == {3: {"x": "0.123", "kind": "small"}, 0: {"x": "2", "kind": "large"}}
    for text in ("a,b\n1,2\n", "token\nmany\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="not a table of tokens"):
            read_statistics(path)
    with pytest.raises(InputError, match=r"gone\.csv does not exist"):
        read_statistics(tmp_path / "gone.csv")


def test_cache_limits(look, monkeypatch):
    viewing = AttentionViewer(["a", "b"])
    keys = [viewing.keep("a", look) for _ in range(40)]
    with pytest.raises(InputError, match="no longer cached"):
        viewing.seen(keys[7])
    assert viewing.seen(keys[8]) is look  # reading makes it the newest
    monkeypatch.setattr(viewer, "KEPT_BYTES", 3 * look.attention.nbytes)
    keys = [keys[8], *(viewing.keep("b", look) for _ in range(3))]
    with pytest.raises(InputError, match="no longer cached"):
        viewing.seen(keys[0])
    assert all(viewing.seen(key) is look for key in keys[1:])
    monkeypatch.setattr(viewer, "KEPT_BYTES", 1)
    assert viewing.seen(viewing.keep("b", look)) is look  # the newest is always kept


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--threshold=2"], "--threshold must be between 0 and 1"),
        (["--port=0"], "--port between 1 and 65535"),
        (["--max-megabytes=0"], "--max-megabytes at least 1"),
        ([], "the page needs gradio; run pip install 'yolos-jax[page]'"),
    ],
)
def test_invalid_flags(monkeypatch, capsys, flags, words):
    for name in QUIET:
        monkeypatch.setenv(name, "")  # restored at the end
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "argv", ["yolos-page", "--checkpoint", "runs/s", *flags])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and words in said and said.count("\n") == 1


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="at least one checkpoint"):
        AttentionViewer([])
    with pytest.raises(InputError, match="no checkpoint 'b'"):
        AttentionViewer(["a"]).detector("b")
    with pytest.raises(InputError, match="an image first"):
        AttentionViewer(["a"]).seen(None)
    with pytest.raises(InputError, match="no longer cached"):
        AttentionViewer(["a"]).seen("0123")
    with pytest.raises(InputError, match="contains no images"):
        images_in(tmp_path)
    with pytest.raises(InputError, match="gone does not exist"):
        images_in(tmp_path / "gone")
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert host_of_a_space() == "127.0.0.1"
    monkeypatch.setenv("SPACE_ID", "me/mine")
    assert host_of_a_space() == "0.0.0.0"


def test_invalid_hosts_and_ports(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} of 127.0.0.1 cannot be used .*choose another --port"):
            check_free_port("127.0.0.1", port)
    check_free_port("127.0.0.1", port)  # the port is free again
    # 192.0.2.0/24 is reserved for documentation.
    with pytest.raises(InputError, match=r"--host 192.0.2.1 is not an address of this machine"):
        check_free_port("192.0.2.1", port)

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError, match=r"--host nowhere is not a known address \(Name or service"):
        check_free_port("nowhere", port)


def test_missing_second_checkpoint(tmp_path, monkeypatch):
    """A missing checkpoint is reported before any checkpoint is loaded."""
    checkpoint_in(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(gradio_page, "load_gradio", lambda: None)
    monkeypatch.setattr(Detector, "load", lambda *_: pytest.fail("a checkpoint was loaded"))
    for name, words in (("gone", "gone does not exist"), ("empty", "empty contains no checkpoint")):
        with pytest.raises(InputError, match=words):
            page_of([str(tmp_path / "a"), str(tmp_path / name)], cache="off")
