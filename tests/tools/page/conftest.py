"""One server and one browser for all tests of the page."""

import socket

import pytest
from page_window import BROWSER, SHOTS, Served


@pytest.fixture(scope="package")
def outside():
    """Addresses of other hosts that this process tried to reach; the connections are blocked."""
    found, connect = [], socket.socket.connect

    def only_here(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            found.append(address)
            raise OSError("no network in this test")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", only_here)
        yield found


@pytest.fixture(scope="package")
def served(tmp_path_factory, outside):
    if BROWSER is None:
        pytest.skip("chromium is not installed (make test-page installs it; CHROMIUM sets its name or path)")
    page = Served(tmp_path_factory.mktemp("page"))
    yield page
    page.blocks.close()


@pytest.fixture(scope="package")
def window(served):
    """Yields an open page, and the requests to other hosts."""
    from playwright.sync_api import sync_playwright

    SHOTS.mkdir(parents=True, exist_ok=True)
    elsewhere = []

    def route(route):
        if route.request.url.startswith((served.address, "data:", "blob:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1500})
        page.set_default_timeout(30_000)
        page.route("**/*", route)
        page.goto(served.address)
        page.wait_for_selector("#file input[type=file]", state="attached")
        yield page, elsewhere
        browser.close()
