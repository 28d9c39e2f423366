"""The page of `digit demo` in gradio's parts: what stands where, and what a click calls."""

import html
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

from digit.errors import DigitError
from digit.page import parts
from digit.page.clicks import Page
from digit.page.drawing import EACH, MOST, NONE, Wish, draw
from digit.page.pictures import MOST_BYTES, from_url, to_url

WAITING = 64  # wishes that wait at most; whoever comes next is told so


def told(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The generator; what a visitor got wrong is a sentence in the page."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    @wraps(function)
    def call(*given: Any) -> Iterator[Any]:
        try:
            yield from function(*given)
        except DigitError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return call


def layout(page: Page) -> Any:
    """gradio's Blocks, with a bounded queue through which one wish after another is granted."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    pipeline, config = page.pipeline, page.pipeline.prior.config
    length, classes = config.length, config.classes
    own = pipeline.sampling.prior if classes else pipeline.sampling.prior_unconditional
    names = [EACH, *(pipeline.classes or map(str, range(classes))), NONE] if classes else [NONE]
    slider = partial(gr.Slider, buttons=[])
    says = partial(gr.Textbox, show_label=False, interactive=False, elem_classes="says", container=False)
    command = partial(gr.Textbox, interactive=False, elem_classes="command", buttons=["copy"])
    tiles = partial(gr.HTML, [], html_template=parts.TILES, js_on_load=parts.CHOOSE)

    def wished(count: int, *renderers: str) -> list[Any]:
        return [
            gr.Dropdown(names, value=names[0], label="class"),
            gr.Number(0, precision=0, label="first seed"),
            slider(1, MOST, count, step=1, label="pictures"),
            slider(1, 8, own.guidance, label="guidance", visible=bool(classes)),
            slider(0, 2, own.temperature, label="temperature"),
            *(gr.Radio(list(renderers), value=each, label="renderer") for each in renderers[:1]),
        ]

    def granted(event: Callable[..., Any], does: Any, given: Any, gives: Any) -> Any:
        how: Any = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        return event(told(does), given, gives, show_progress="minimal", **how)

    def taken(event: gr.SelectData) -> Iterator[Any]:
        yield to_url(from_url(event.value, pipeline.image_size)[0])

    def clicked(event: gr.SelectData) -> Iterator[Any]:
        yield from page.codes(event.value, event.index)

    with gr.Blocks(title="digit", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown("# digit\nClass and seed become codes, codes become a picture. A seed is its picture.")
        with gr.Tab("Draw"), gr.Row():
            with gr.Column(scale=1, min_width=260):
                wish = wished(16, *pipeline.renderers)
                with gr.Row():
                    go = gr.Button("Draw", variant="primary", min_width=80)
                    stop = gr.Button("Stop", min_width=80)
            with gr.Column(scale=3, min_width=320):
                gr.Markdown("Click on a picture to complete it, and to see its codes.")
                drawn = [says(), chosen := tiles(), command(label="the same pictures by command")]
            stop.click(None, cancels=[granted(go.click, page.draw, wish, drawn)])
        with gr.Tab("Complete"), gr.Row():
            with gr.Column(scale=1, min_width=260):
                start = to_url(next(draw(pipeline, Wish(count=1))).rows[0][0])
                how = {"js_on_load": parts.STROKES, "side": page.side, "colours": parts.COLOURS}
                pad = gr.HTML(start, html_template=parts.PAD, **how)
                file = gr.UploadButton("Upload a picture", file_types=["image"], type="binary")
                kept = slider(0, length, length // 2, step=1, label="codes to keep, from the top")
                go = gr.Button("Complete", variant="primary")
                wish = wished(8, *pipeline.renderers)
            with gr.Column(scale=3, min_width=320):
                same = "the same by command, with this picture as picture.png"
                completed = [says(), tiles(), command(label=same)]
            granted(file.upload, page.upload, file, pad)
            granted(go.click, page.complete, [pad, kept, *wish], completed)
            granted(chosen.select, taken, None, pad)
        with gr.Tab("Codes") as tab, gr.Row():
            with gr.Column(min_width=320):
                empty = {"url": start, "codes": [], "grid": 1, "chosen": None}
                codes = gr.HTML(empty, html_template=parts.MAP, js_on_load=parts.CHOOSE)
            with gr.Column(min_width=320):
                known = [says(), codes, tiles()]
            granted(tab.select, page.codes, pad, known)
            granted(codes.select, clicked, None, known)
        if len(titles := list(page.renderings)) > 1:
            with gr.Tab("Side by side"):
                with gr.Row():
                    sides = [gr.Dropdown(titles, value=each, label="renderer") for each in titles[:2]]
                    wish = wished(8)
                go, said = gr.Button("Draw the same codes", variant="primary"), says()
                with gr.Row():
                    both = [tiles(), tiles()]
                granted(go.click, page.compare, [*sides, *wish], [said, *both])
    return blocks.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)


def serve(blocks: Any, host: str, port: int) -> str:
    """Serve the page in threads, without what gradio offers besides; its address. OSError: no such place."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    sizes = {"text_size": "sm", "spacing_size": "sm", "font": ["system-ui", "sans-serif"]}
    theme = gr.themes.Default(primary_hue="indigo", font_mono=["ui-monospace", "monospace"], **sizes)
    off = ("share", "run_history", "enable_monitoring", "ssr_mode", "pwa", "mcp_server")
    unused = dict.fromkeys(off, False) | {"footer_links": [], "quiet": True, "state_session_capacity": 200}
    where = {"server_name": host, "server_port": port, "prevent_thread_lock": True, "max_threads": 8}
    return blocks.launch(**where, **unused, max_file_size=MOST_BYTES, theme=theme, css=parts.CSS)[1]
