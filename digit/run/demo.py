"""`digit demo`: a page in the browser to draw with a model. This file is also the app.py of a Space."""

import threading
from typing import Annotated, Any

from digit.bounds import Bounds
from digit.calls import checked
from digit.errors import DigitError
from digit.run.options import Device, Metavar, Model, Positional


@checked
def demo(
    model: Positional[Model | None] = None,
    *,
    against: Model | None = None,
    host: Annotated[str, Metavar("HOST")] = "127.0.0.1",
    port: Annotated[int, Bounds(1, 2**16 - 1)] = 7860,
    device: Device | None = None,
) -> dict[str, Any]:
    """Serve a page on which a model draws, completes pictures and shows their codes, until Ctrl-C.

    Needs gradio: pip install "digit-image[demo]". The page asks no other host for anything.

    Example: digit demo
    Example: digit demo runs/model --against runs/other --port 8000

    Args:
        model: a folder, a bundled model's name, or owner/name on the hub; the bundled one if left out.
        against: another model of the same codes, to see both render them side by side.
        host: the address to listen at; 0.0.0.0 lets everybody in who can reach this machine.
        port: of the address.
        device: cpu, cuda, cuda:N or mps; an NVIDIA GPU if there is one.
    """
    from digit.weights.model_folder import locate, read_config

    for name in (model, against or model):  # looked at before anything is loaded
        read_config(locate(name))
    try:
        import gradio  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DigitError('digit demo needs gradio: pip install "digit-image[demo]"') from None
    from digit.page.clicks import Page
    from digit.page.drawing import check_against
    from digit.page.layout import layout, serve
    from digit.pipeline import DigitPipeline
    from digit.progress import say
    from digit.run.device import choose_device

    where = choose_device(device)
    names = dict.fromkeys((model, against or model))
    models = {name: DigitPipeline.from_pretrained(name, device=where) for name in names}
    pipeline = models[model]
    if against is not None:
        check_against(pipeline, models[against], against)
    both = {
        (f"{name or 'bundled'}: " if against else "") + (by or "VQGAN"): (each, by)
        for name, each in models.items()
        for by in each.renderers or [None]
    }
    words = [*([] if model is None else [model]), *([] if device is None else ["--device", device])]
    blocks = layout(Page(pipeline, words, both))
    try:
        address = serve(blocks, host, port)
    except OSError:
        raise DigitError(f"nothing can listen at --host {host} --port {port}: choose another port") from None
    open_to = "" if host in ("127.0.0.1", "localhost", "::1") else ", open to all who can reach this machine"
    say(f"the page is at {address}{open_to}; Ctrl-C ends it")
    try:
        threading.Event().wait()
    finally:
        blocks.close()
    return {}


if __name__ == "__main__":  # as a Space starts it
    demo(host="0.0.0.0")
