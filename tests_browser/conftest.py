"""A server of its own for the tests of the page, and Debian's Chromium: nothing here is skipped."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "bench"))  # what starts server and browser is there, for its measurement
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])

from page import chromium, serving  # noqa: E402  # pyright: ignore[reportMissingImports]


@pytest.fixture(scope="session")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def server():
    """The page of the bundled model: its address, and the file of what the server says."""
    with serving("--device", "cpu") as started:
        yield started


@pytest.fixture
def visit(browser, server):
    """Opens the page as another visitor; what it asks other hosts for, or complains about, is an error."""
    address, said = server
    strange, contexts, before = [], [], len(said.read_text())

    def asked(request):
        if not request.url.startswith((address, "data:", "blob:")):
            strange.append(request.url)

    def open_page(**how):
        context = browser.new_context(**how)
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", asked)
        page.on("pageerror", lambda error: strange.append(str(error)))
        page.goto(address)
        page.get_by_role("button", name="Draw", exact=True).wait_for()
        return page

    open_page.odd = False  # whether values are sent that gradio itself complains about
    yield open_page
    for context in contexts:
        context.close()
    assert strange == []
    assert open_page.odd or "Traceback" not in said.read_text()[before:]
