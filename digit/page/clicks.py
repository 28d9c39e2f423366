"""What a click does: the texts, pictures and codes that the page's parts show then, without the page."""

import html
from collections.abc import Iterator
from typing import Any

from digit.errors import DigitError
from digit.page.drawing import Rendering, Shown, Wish, complete, draw
from digit.page.patches import Pool
from digit.page.pictures import from_url, pixels_of, to_url
from digit.pipeline import DigitPipeline


class Page:
    """Each method is a generator of values for the parts that it changes; arguments come from anybody."""

    def __init__(self, pipeline: DigitPipeline, words: list[str], renderings: dict[str, Rendering]) -> None:
        """`words` of `digit sample` choose model and device; `renderings` are for side by side, by title."""
        self.pipeline, self.words, self.renderings = pipeline, words, renderings
        self.side, self.pool = max(256, pipeline.image_size), Pool(pipeline)  # of the pad, in pixels

    def draw(self, *wish: Any) -> Iterator[tuple[Any, ...]]:
        """Sentence, tiles, command."""
        asked = Wish(*wish)
        yield "drawing ...", [], (command := asked.command(*self.words))
        for shown in draw(self.pipeline, asked):
            yield shown.sentence, tiles(shown), command
        self.pool.pictures.extend(shown.rows[0])

    def complete(self, url: str, kept: int, *wish: Any) -> Iterator[tuple[Any, ...]]:
        """Sentence, tiles, command."""
        asked, pixels = Wish(*wish), from_url(url, self.pipeline.image_size)
        command = asked.command(*self.words, "--prefix-from", "picture.png", "--prefix", str(kept))
        yield "reading the picture's codes ...", [], command
        for shown in complete(self.pipeline, pixels, kept, asked):
            yield shown.sentence, tiles(shown), command

    def compare(self, left: str, right: str, *wish: Any) -> Iterator[tuple[Any, ...]]:
        """Sentence, tiles of both."""
        if not {left, right} <= set(self.renderings):
            raise DigitError("there is no such renderer: choose from the list")
        (model, renderer), other = self.renderings[left], self.renderings[right]
        own = model is self.pipeline  # which has drawn the left side then
        asked = Wish(*wish, renderer=renderer if own else None)
        yield "drawing ...", [], []
        for shown in draw(self.pipeline, asked, *([] if own else [(model, renderer)]), other):
            yield shown.sentence, tiles(shown, -2), tiles(shown, -1)

    def upload(self, data: bytes) -> Iterator[str]:
        """The picture for the pad."""
        yield to_url(pixels_of(data, self.side)[0])

    def codes(self, url: str, place: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Sentence, the map of a picture's codes, and the nearest patches of the code at a place."""
        pixels = from_url(url, self.pipeline.image_size)
        codes = self.pipeline.encode(pixels)[0].tolist()
        shown = {"url": url, "codes": codes, "grid": round(len(codes) ** 0.5), "chosen": None}
        if place is None:
            yield f"{len(codes)} codes, {len(set(codes))} different ones: click on one", shown, []
            return
        if place not in range(len(codes)):
            raise DigitError("there is no such code: click on one of the picture's")
        shown["chosen"] = codes[place]
        for sentence in self.pool.fill():
            yield sentence, shown, []
        found, sentence = self.pool.patches(codes[place], pixels[0])
        yield sentence, shown, [[to_url(patch), ""] for patch in found]


def tiles(shown: Shown, row: int = 0) -> list[list[str]]:
    """Pictures and names as the page shows them; a class's name is what its model says, no HTML."""
    named = zip(shown.rows[row], shown.names, strict=True)
    return [[to_url(pixels), html.escape(name)] for pixels, name in named]
