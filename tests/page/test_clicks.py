"""What clicks show, without the page: sentences, tiles, maps; and what anybody may send in their place."""

import pytest
import torch

from digit import DigitError, DigitPipeline
from digit.page.clicks import Page, tiles
from digit.page.drawing import EACH, Shown
from digit.page.pictures import from_url, to_url


@pytest.fixture(scope="module")
def page(chain):
    pipeline = DigitPipeline.from_pretrained(chain.root / "model")
    other = DigitPipeline.from_pretrained(chain.root / "model")
    both = {"autoregressive": (pipeline, "autoregressive"), "masked": (pipeline, "masked")}
    return Page(pipeline, ["MODEL"], both | {"other: masked": (other, "masked"), "other": (other, None)})


def test_a_drawing_shows_tiles_and_gives_the_pool_its_pictures(page):
    before = len(page.pool.pictures)
    first, *parts = page.draw(EACH, 4, 3, 2.0, 1.0, "masked")
    assert first[1] == [] and len(parts) == 2
    sentence, shown, command = parts[-1]
    assert sentence.startswith("3 pictures: ") and [name for _, name in shown] == [
        "green 4",
        "red 5",
        "blue 6",
    ]
    assert command.startswith("digit sample MODEL --seeds 4-6 ") and command.endswith("--renderer masked")
    pixels = page.pipeline(seeds=[4, 5, 6], renderer="masked", guidance=2.0).pixels
    for (url, _), picture in zip(shown, pixels, strict=True):
        assert torch.equal(from_url(url, 16)[0], picture)
    assert len(page.pool.pictures) == before + 3


def test_an_upload_reaches_no_pool(page):
    before = len(page.pool.pictures)
    url = to_url(torch.full((3, 16, 16), 77, dtype=torch.uint8))
    *_, (sentence, shown, command) = page.complete(url, 6, EACH, 4, 1, 2.0, 1.0)
    assert sentence.startswith("1 picture: ") and len(shown) == 3
    assert "--prefix-from picture.png --prefix 6 " in command
    list(page.codes(url))
    assert len(page.pool.pictures) == before


def test_sides_are_the_same_codes_whoever_renders(page):
    sides = {}
    for left, right in (("autoregressive", "masked"), ("other: masked", "other")):
        *_, (_, *both) = page.compare(left, right, EACH, 4, 1, 2.0, 1.0)
        sides[left] = both
    assert sides["autoregressive"] == sides["other: masked"][::-1]
    with pytest.raises(DigitError, match="no such renderer"):
        next(page.compare("masked", "/etc/passwd"))


def test_a_map_has_a_code_for_each_patch_and_a_click_chooses_one(page):
    url = to_url(page.pipeline(seeds=[1]).pixels[0])
    ((sentence, shown, none),) = page.codes(url)
    codes = page.pipeline.encode(from_url(url, 16))[0].tolist()
    assert shown == {"url": url, "codes": codes, "grid": 4, "chosen": None} and none == []
    assert sentence.startswith("16 codes, ")
    page.pool.pictures.extend(torch.randint(256, (64, 3, 16, 16), dtype=torch.uint8))  # none has to be drawn
    *_, (sentence, shown, found) = page.codes(url, 5)
    assert shown["chosen"] == codes[5] and sentence.startswith(f"code {codes[5]} is in ")
    assert 1 <= len(found) <= 12
    for place in (16, -1):
        with pytest.raises(DigitError, match="no such code"):
            list(page.codes(url, place))


def test_names_of_classes_are_no_html():
    shown = Shown([torch.zeros(1, 3, 4, 4, dtype=torch.uint8)], ['<img src=x onerror="alert(1)"> 3'], "")
    assert tiles(shown)[0][1] == "&lt;img src=x onerror=&quot;alert(1)&quot;&gt; 3"
