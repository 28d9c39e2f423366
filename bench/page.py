"""How long from `digit demo` to a page that can be used and to its first pictures, in a real Chromium.

    python bench/page.py [--device cpu] [--out bench/results/page.json] [--smoke]

Needs the extras demo and test-browser, and Chromium (Debian: apt install chromium). Three runs, each by a
server of its own; `load` is what else the machine did at their beginning.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import device_of, heading, parser

from digit.files import write_json_atomic

NEEDED = "needs gradio, playwright and Chromium: pip install -e '.[demo,test-browser]', apt install chromium"


@contextmanager
def serving(*options: str) -> Iterator[tuple[str, Path]]:
    """The address of a `digit demo` of its own process, and the file of what it says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        said, call = Path(folder) / "said", [sys.executable, "-m", "digit", "demo", *options, "--port", port]
        with said.open("w") as file:
            server = subprocess.Popen(call, stdout=file, stderr=file, env={**os.environ, "TMPDIR": folder})
        try:
            while "the page is at" not in said.read_text():
                if server.poll() is not None:
                    raise SystemExit(f"digit demo ended: {said.read_text()}")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", said
        finally:
            server.terminate()
            server.wait(60)


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser; one sentence where this machine has none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None or not find_spec("playwright") or not find_spec("gradio"):
        raise SystemExit(f"the page in a browser {NEEDED}")
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def measured(browser: Any, device: str) -> dict[str, float]:
    """Seconds from the start of the command, and then from the click."""
    began = time.perf_counter()
    with serving("--device", device) as (address, _):
        seconds = {"start to address": time.perf_counter() - began}
        page = browser.new_page()
        page.goto(address)
        go = page.get_by_role("button", name="Draw", exact=True)
        go.wait_for()
        seconds["start to usable page"] = time.perf_counter() - began
        begun = time.perf_counter()
        go.click()
        for name, count in (("click to first 2 pictures", 1), ("click to all 16 pictures", 15)):
            page.locator(".tiles figure").nth(count).wait_for(timeout=600_000)
            seconds[name] = time.perf_counter() - begun
        page.close()
    return seconds


def main() -> None:
    """Measure and write."""
    given = parser(__doc__).parse_args()
    if given.smoke and not find_spec("gradio"):
        print(f"not measured: it {NEEDED}")
        return
    found: dict[str, Any] = heading("the page of digit demo", device_of(given))
    found |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    with chromium() as browser:
        runs = [measured(browser, device_of(given).type) for _ in range(1 if given.smoke else 3)]
    found["seconds"] = {name: sorted(round(run[name], 2) for run in runs) for name in runs[0]}
    print(found)
    if given.out:
        write_json_atomic(given.out, found)


if __name__ == "__main__":
    main()
