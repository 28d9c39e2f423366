"""The page of `digit demo` in a real Chromium, on the bundled model: what visitors do to it, and try."""

import base64
import io
import json
import re
import shlex
import struct
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digit.page.drawing import EACH
from digit.run.main import run

PHOTOS = Path(__file__).parents[1] / "docs/images/photos"


def says(page, pattern):
    """Waits for the sentence of the tab that is shown."""
    page.wait_for_function(
        """pattern => [...document.querySelectorAll(".says textarea")].some(
            box => box.offsetParent && new RegExp("^" + pattern).test(box.value))""",
        arg=pattern,
    )


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def number(page, label, value):
    """Types into the field of a slider or a number that is shown."""
    box = page.locator("input[type=number]:visible").and_(page.get_by_label(label)).first
    box.fill(str(value))
    box.press("Enter")


def shown(page):
    """The pictures of the tab that is shown, as arrays, by their names."""
    found = page.locator(".tiles figure:visible").evaluate_all(
        "all => all.map(f => [f.innerText.trim(), f.children[0].src])"
    )
    return [(name, pixels(url)) for name, url in found]


def pixels(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def command(page):
    return page.locator(".command textarea:visible").first.input_value()


def drawn_by(line, folder, *more):
    """The pictures of a command line, by seed, in order."""
    words = [*shlex.split(line)[1:], *more, "--out", str(folder)]
    assert run(words) == 0
    rows = json.loads((folder / "samples.json").read_text())["samples"]
    return [np.asarray(Image.open(folder / row["file"])) for row in rows]


def test_what_is_drawn_is_what_the_command_draws(visit, tmp_path):
    page = visit()
    number(page, "first seed", 40)
    number(page, "pictures", 5)
    page.get_by_label("class").first.click()
    page.get_by_role("option", name="horse").click()
    page.get_by_role("button", name="Draw", exact=True).click()
    says(page, r"2 of 5 pictures of horse: [\d.]+ s, [\d.]+ pictures per second")
    says(page, r"5 pictures of horse")
    names, pictures = zip(*shown(page), strict=True)
    assert names == tuple(f"horse {seed}" for seed in range(40, 45))
    line = command(page)
    assert line.startswith("digit sample --device cpu --seeds 40-44 --labels horse ")
    again = drawn_by(line, tmp_path / "again")
    assert all(np.array_equal(a, b) for a, b in zip(pictures, again, strict=True))


def upload(page, path):
    page.locator("input[type=file]").first.set_input_files(path)


def pad(page):
    return page.get_by_alt_text("the picture to complete").get_attribute("src")


def changed(page, before):
    """Waits for another picture in the pad, and gives it."""
    page.wait_for_function(
        "before => document.querySelector('[alt=\"the picture to complete\"]').src !== before", arg=before
    )
    return pad(page)


def stroke(page):
    """Draws from left to right over the pad."""
    box = page.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.3 * box["height"], steps=4)
    page.mouse.up()


def test_an_uploaded_picture_is_drawn_on_and_completed_as_by_command(visit, tmp_path):
    page = visit()
    tab(page, "Complete")
    photo = next(iter(sorted(PHOTOS.iterdir())))
    before = pad(page)
    upload(page, photo)
    uploaded = changed(page, before)
    page.get_by_label("draw in #d7263d").click()
    stroke(page)
    url = changed(page, uploaded)
    was, now = pixels(uploaded).astype(int), pixels(url).astype(int)
    row = round(0.3 * len(now))
    assert np.abs(now[row, len(now) // 2, :3] - [0xD7, 0x26, 0x3D]).max() < 3  # red where the stroke went
    assert np.array_equal(was[-20:], now[-20:, :, :3])  # and the photo elsewhere
    number(page, "codes to keep, from the top", 24)
    number(page, "pictures", 3)
    page.get_by_role("button", name="Complete", exact=True).click()
    says(page, "3 pictures")
    names, pictures = zip(*shown(page), strict=True)
    assert names == ("picture", "all codes", "airplane 0", "automobile 1", "bird 2")
    (tmp_path / "picture.png").write_bytes(base64.b64decode(url.partition(",")[2]))
    line = command(page).replace("picture.png", str(tmp_path / "picture.png"))
    assert " --prefix 24 " in line
    again = drawn_by(line, tmp_path / "again")
    assert all(np.array_equal(a, b) for a, b in zip(pictures[2:], again, strict=True))


def test_a_click_on_a_code_shows_its_patches(visit):
    page = visit()
    number(page, "pictures", 3)
    page.get_by_role("button", name="Draw", exact=True).click()
    says(page, "3 pictures")
    bird = shown(page)[2][1]
    page.locator(".tiles figure:visible").nth(2).click()
    tab(page, "Complete")
    page.get_by_alt_text("the picture to complete").wait_for()
    page.wait_for_timeout(1000)
    assert np.array_equal(pixels(pad(page)), bird)
    tab(page, "Codes")
    says(page, r"64 codes, \d+ different ones: click on one")
    cell = page.locator(".cells button").nth(27)
    code = cell.inner_text()
    cell.click()
    says(page, rf"code {code} is in \d+ of \d+ pictures, yours and \d+ that this page drew")
    assert page.locator(".cells button.chosen").first.inner_text() == code
    assert 1 <= len(shown(page)) <= 12


def test_two_renderers_draw_the_same_codes(visit):
    page = visit()
    tab(page, "Side by side")
    number(page, "pictures", 2)
    page.get_by_role("button", name="Draw the same codes").click()
    says(page, "2 pictures")
    names, pictures = zip(*shown(page), strict=True)
    assert names == ("airplane 0", "automobile 1") * 2
    assert not np.array_equal(pictures[0], pictures[2])


def bomb():
    """A PNG of a few hundred bytes whose header says 60,000 x 60,000 pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is a text, whatever it is called", "not a picture in a known format"),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "not a picture in a known",
        ),
        (b"", "the file is empty"),
        (bomb(), "3600000000 pixels"),
        (b"\x89PNG\r\n\x1a\n" + bytes(21 * 2**20), ""),  # gradio's own words
    ],
    ids=["text", "svg", "empty", "bomb", "large"],
)
def test_a_bad_upload_is_one_sentence_and_the_page_lives_on(visit, tmp_path, content, words):
    page = visit()
    tab(page, "Complete")
    before = pad(page)
    (tmp_path / "picture.png").write_bytes(content)
    upload(page, tmp_path / "picture.png")
    error = page.locator(".toast-body.error")
    error.wait_for()
    assert words in error.inner_text() and "Traceback" not in error.inner_text()
    assert pad(page) == before
    good = tmp_path / "good.png"
    Image.new("RGB", (50, 40), "green").save(good)
    upload(page, good)
    assert pixels(changed(page, before))[5, 5].tolist() == [0, 128, 0]


def test_two_visitors_at_once_get_their_own_pictures(visit, tmp_path):
    pages = [visit(), visit()]
    for page, seed in zip(pages, (100, 200), strict=True):
        number(page, "first seed", seed)
        number(page, "pictures", 8)
    for page in pages:
        page.get_by_role("button", name="Draw", exact=True).click()
    for page, seed in zip(pages, (100, 200), strict=True):
        says(page, "8 pictures")
        names, pictures = zip(*shown(page), strict=True)
        assert [int(name.split()[-1]) for name in names] == list(range(seed, seed + 8))
        again = drawn_by(command(page), tmp_path / str(seed))
        assert all(np.array_equal(a, b) for a, b in zip(pictures, again, strict=True))


def test_stop_ends_a_drawing(visit):
    page = visit()
    number(page, "pictures", 64)
    page.get_by_role("button", name="Draw", exact=True).click()
    says(page, r"\d+ of 64 pictures")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_timeout(2000)
    stopped = page.locator(".says textarea:visible").input_value()
    page.wait_for_timeout(3000)
    assert page.locator(".says textarea:visible").input_value() == stopped
    number(page, "pictures", 1)
    page.get_by_role("button", name="Draw", exact=True).click()
    says(page, r"1 picture:")


def asking(page, address):
    """A function that sends what a click on Draw sends, with other values, and gives what is answered."""
    with page.expect_request(re.compile("queue/join")) as sent:
        page.get_by_role("button", name="Draw", exact=True).click()
    like = json.loads(sent.value.post_data)
    says(page, "16 pictures")

    def ask(name, data):
        body = json.dumps({**like, "session_hash": name, "data": data}).encode()
        kind = {"Content-Type": "application/json"}
        try:
            urllib.request.urlopen(urllib.request.Request(sent.value.url, body, kind), timeout=300).read()
            stream = sent.value.url.replace("queue/join", "queue/data").partition("?")[0]
            for line in urllib.request.urlopen(f"{stream}?session_hash={name}", timeout=300):
                told = json.loads(line.partition(b":")[2]) if line.startswith(b"data:") else {}
                if told.get("msg") == "process_completed":
                    return "drawn" if told["success"] else told["output"]["error"] or "an error"
        except urllib.error.HTTPError as error:
            return f"refused: {error.read().decode()}"
        return "nothing"

    return ask


def test_a_hundred_requests_at_once(visit, server):
    """As many as wait are granted, the others are told that the queue is full; then all is as before."""
    page = visit()
    ask = asking(page, server[0])
    with ThreadPoolExecutor(100) as pool:
        told = list(
            pool.map(lambda i: ask(f"crowd{i}", [EACH, i, 1, 2.0, 1.0, "autoregressive"]), range(100))
        )
    drawn = told.count("drawn")
    assert drawn >= 64 and all("full" in words for words in told if words != "drawn"), set(told)
    number(page, "pictures", 2)
    page.get_by_role("button", name="Draw", exact=True).click()
    says(page, "2 pictures")


def test_what_no_page_sends_is_refused_in_a_sentence(visit, server):
    visit.odd = True
    ask = asking(visit(), server[0])
    odd = (
        (0, "zebra", "not in the list of choices"),  # gradio's own words
        (1, -1, "seed"),
        (1, "x", "an error"),
        (2, 10**9, "greater than maximum"),
        (2, None, ""),
        (3, 1e9, "greater than maximum"),
        (5, "../../etc", ""),
    )
    for i, (place, value, words) in enumerate(odd):
        data = [EACH, 0, 1, 2.0, 1.0, "autoregressive"]
        data[place] = value
        told = ask(f"odd{i}", data)
        assert told != "drawn" and words in told, (value, told)
    assert ask("good", [EACH, 0, 1, 2.0, 1.0, "autoregressive"]) == "drawn"


def test_a_phone_shows_all_of_it(visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True)
    for name in ("Draw", "Complete", "Codes", "Side by side"):
        tab(page, name)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390
