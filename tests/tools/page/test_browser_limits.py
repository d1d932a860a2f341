"""Checks that the page rejects invalid uploads and contacts no other hosts."""

import urllib.error
import urllib.request

import psutil
import pytest
from page_window import SHOTS, picture, png, says, upload, wait_for
from PIL import Image

pytestmark = pytest.mark.page
pytest.importorskip("gradio", reason="the page's packages are not installed (make test-page installs them)")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make test-page)")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("letter.png", b"Dear Sir or Madam", "letter.png cannot be read (Pillow does not recognise its format)"),
        ("half.png", png(picture())[:-900], "half.png cannot be read"),
        ("bomb.png", None, "at most 40 million"),
    ],
)
def test_invalid_images_show_a_message(served, window, name, content, words):
    page, _ = window
    if content is None:
        content = png(Image.new("L", (8000, 6000)))
    upload(page, name, content)
    wait_for(page, lambda: says(page, words), words)
    assert "Traceback" not in page.inner_text("body")
    page.screenshot(path=SHOTS / f"4-{name}", full_page=True)


def test_large_upload_shows_a_message(window):
    page, _ = window
    upload(page, "large.png", bytes(2 * 2**20))
    wait_for(page, lambda: "exceed the maximum allowed size" in page.inner_text("body"), "the message about the size")
    page.wait_for_timeout(500)  # the message fades in
    page.screenshot(path=SHOTS / "5-large.png")


def test_limits_direct_uploads(served, window):
    """The server also rejects requests that bypass the page's form."""

    def post(size, count=1):
        part = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n" + bytes(size) + b"\r\n"
        body = part * count + b"--x--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        request = urllib.request.Request(f"{served.address}gradio_api/upload", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except (ConnectionError, urllib.error.URLError):  # the server closed the connection early
            return 413

    assert post(1000) == 200
    assert post(2**20, count=2) == 413
    assert 429 in [post(10) for _ in range(70)]


def test_contacts_no_other_host(served, window, outside):
    """Neither the browser nor the server contacted other hosts; the server listens only on loopback."""
    _, elsewhere = window
    assert elsewhere == [] and outside == []
    listening = [c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
    assert [a.ip for a in listening if a.port == served.port] == ["127.0.0.1"]
    with urllib.request.urlopen(served.address) as answer:
        policy, text = answer.headers["content-security-policy"], answer.read().decode()
    assert policy.startswith("default-src 'self'") and "http" not in policy
    assert "fonts.googleapis" not in text and 'src="http' not in text


def test_port_in_use(served, window):
    from yolos_jax.errors import InputError
    from yolos_jax.tools.page.gradio_page import build_page, serve

    with pytest.raises(InputError, match=rf"127.0.0.1:{served.port} .*choose another --port"):
        serve(build_page(served.viewer), "127.0.0.1", served.port, wait=False)
