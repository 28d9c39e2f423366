"""`digit sample`: labels and seeds -> pictures, a grid and samples.json."""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from digit.distributed import by_main, is_main, main_first
from digit.errors import DigitError
from digit.evaluation.npz import NpzWriter
from digit.files import atomic_path, locked, make_folder, write_json_atomic
from digit.pipeline import RENDERERS, DigitPipeline, RendererName
from digit.request import at_once
from digit.run.complete import complete
from digit.run.device import choose_device
from digit.run.draw import draw, forget_drawn, read_drawn, read_pixels
from digit.run.grid import grid
from digit.weights.model_folder import locate, read_config

GRID = 256  # pictures that grid.png shows at most


def sample(
    model: Annotated[str | None, tyro.conf.Positional] = None,
    *,
    num: int | None = None,
    seeds: str | None = None,
    labels: tuple[str, ...] | None = None,
    unconditional: bool = False,
    prefix_from: Path | None = None,
    prefix: int | None = None,
    out: Path = Path("samples"),
    npz: Path | None = None,
    renderer: Literal["autoregressive", "masked"] | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float | None = None,
    guidance_schedule: Literal["constant", "linear"] | None = None,
    renderer_temperature: float | None = None,
    renderer_top_k: int | None = None,
    renderer_top_p: float | None = None,
    steps: int | None = None,
    noise: float | None = None,
    codes: bool = False,
    batch: int | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Draw pictures: one 000000.png a seed, grid.png (of the first 256) and samples.json.

    A seed always gives the same picture, whatever the batch or the number of processes, and memory holds one
    batch. An interrupted command keeps what it drew when repeated. Settings left out are the model's own.
    With --prefix-from, the prior completes pictures of yours: it is given the first --prefix codes of each
    and draws the rest once a seed; a strip a picture shows the original, the picture from all of its codes,
    and the completions.

    Args:
        model: a folder, a bundled model's name, or owner/name on the hub; the bundled one if left out.
        num: how many pictures; seeds count from 0. 16 if neither this nor --seeds is given, and 8 of each
            picture to complete.
        seeds: which ones, as 0-63 or 1,5,9-12.
        labels: class names or numbers, taken in turn; all classes in turn if left out.
        unconditional: draw without a class.
        prefix_from: a picture, or a folder, zip or tar of them, to complete; their class is that of
            --labels, or of their folder where the model knows it.
        prefix: how many codes of each picture to keep, in raster order.
        out: folder for the pictures.
        npz: a file for all of them as well (arr_0 uint8 n h w 3, labels arr_1), as ADM's evaluation reads it.
        renderer: the autoregressive or the masked one.
        temperature: of the prior; 0 takes the likeliest code.
        top_k: keep the k likeliest codes of the prior; 0 keeps all.
        top_p: keep the prior's likeliest codes up to this probability; 1 keeps all.
        guidance: classifier-free guidance; 1 is none.
        guidance_schedule: linear lets it grow from 1 at the first code to its value at the last.
        renderer_temperature: of the renderer.
        renderer_top_k: of the autoregressive renderer.
        renderer_top_p: of the autoregressive renderer.
        steps: of the masked renderer.
        noise: of the masked renderer: weight of the Gumbel noise on its confidence.
        codes: also write the codes and VQ codes into samples.json.
        batch: pictures at once; 64 if left out, on a GPU an eighth of all, up to 1024 as its memory allows.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    if (prefix_from is None) != (prefix is None):
        raise DigitError("--prefix-from and --prefix go together: which pictures, and how many codes of each")
    default = 16 if prefix_from is None else 8
    wanted = parse_seeds(seeds) if seeds is not None else list(range(default if num is None else num))
    if seeds is not None and num is not None:
        raise DigitError("--num and --seeds say the same thing twice: give one of them")
    if not wanted:
        raise DigitError(f"--num {num}: draw at least one picture")
    if unconditional and labels:
        raise DigitError("--unconditional and --labels exclude each other: give one of them")
    if npz is not None and (npz.suffix != ".npz" or prefix_from is not None):
        raise DigitError(f"--npz {npz}: name a file that ends in .npz, and give no --prefix-from")
    if batch is not None and batch < 1:
        raise DigitError(f"--batch {batch}: draw at least one picture at once")
    with main_first():  # it may have to fetch the model
        folder = locate(model)
    config = read_config(folder)
    parts = _needed(config["parts"], renderer, encodes=prefix_from is not None)
    pipeline = DigitPipeline.from_pretrained(folder, device=choose_device(device), parts=parts)
    batch = batch or at_once(pipeline.device, len(wanted) // 8)  # eight processes have work then
    make_folder(out)
    if npz is not None:
        make_folder(npz.parent)
    chosen: Any = None
    if labels:
        chosen = pipeline.label_ids(labels)  # all of them, before the first picture
    elif not unconditional and pipeline.prior.config.classes and prefix_from is None:
        chosen = list(range(pipeline.prior.config.classes))
    settings: dict[str, Any] = {
        "renderer": renderer,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "guidance": guidance,
        "guidance_schedule": guidance_schedule,
        "renderer_temperature": renderer_temperature,
        "renderer_top_k": renderer_top_k,
        "renderer_top_p": renderer_top_p,
        "steps": steps,
        "noise": noise,
    }
    name = model or "bundled"
    with by_main(locked(out, f"another process is drawing pictures into {out}: wait, or choose --out")):
        if prefix_from is not None and prefix is not None:
            completed = complete(
                pipeline,
                prefix_from,
                out,
                known=prefix,
                seeds=wanted,
                labels=chosen,
                by_folder=not unconditional,
                settings=settings,
                codes=codes,
                batch=batch,
            )
            if is_main():
                write_json_atomic(out / "samples.json", {"model": name, **completed})
            return {
                "pictures": len(completed["samples"]),
                "strips": len(completed["strips"]),
                "grid": out / "grid.png",
                "list": out / "samples.json",
                "settings": completed["settings"],
            }
        batches = [wanted[start : start + batch] for start in range(0, len(wanted), batch)]
        numbers = draw(
            pipeline,
            batches,
            out,
            labels=chosen and [chosen[i % len(chosen)] for i in range(len(wanted))],
            settings=settings,
            codes=codes,
            made_with=config,
        )
        if not is_main():
            return {}
        rows, used = [], {}
        shown: list[torch.Tensor] = []
        with ExitStack() as stack:
            file = None if npz is None else stack.enter_context(NpzWriter(npz, len(wanted)))
            for part in read_drawn(out, numbers):
                if len(rows) < GRID or file is not None:
                    pixels = read_pixels(out, part["rows"])
                    shown.append(pixels[: max(0, GRID - len(rows))])
                    if file is not None:
                        file.add(pixels, None if chosen is None else [row["label"] for row in part["rows"]])
                rows += part["rows"]
                used = part["settings"]
        with atomic_path(out / "grid.png") as temporary:
            in_turn = pipeline.prior.config.classes if chosen and not labels else 0
            columns = in_turn if 1 < in_turn <= 16 else None
            grid(torch.cat(shown), columns=columns).save(temporary, "png")
        write_json_atomic(out / "samples.json", {"model": name, "settings": used, "samples": rows})
        forget_drawn(out)
    return {"pictures": len(rows), "grid": out / "grid.png", "list": out / "samples.json", "settings": used}


def _needed(parts: Iterable[str], renderer: RendererName | None, *, encodes: bool) -> list[str] | None:
    """The parts of a model that drawing needs besides prior and VQGAN; all where it lacks the renderer."""
    if renderer is not None and RENDERERS[renderer] not in parts:
        return None  # the pipeline says which there are
    there = [part for part in RENDERERS.values() if part in parts]
    chosen = [RENDERERS[renderer]] if renderer is not None else there[:1]
    return [*chosen, "tokenizer"] if encodes else chosen


def parse_seeds(text: str) -> list[int]:
    """`0-3,7` as [0, 1, 2, 3, 7].

    Raises:
        DigitError: not a list of numbers and ranges, or a seed named twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not found or (found[2] and int(found[2]) < int(found[1])):
            raise DigitError(f"--seeds {text}: write numbers and rising ranges, as 0-63 or 1,5,9-12")
        seeds.extend(range(int(found[1]), int(found[2] or found[1]) + 1))
    if len(set(seeds)) < len(seeds):
        raise DigitError(f"--seeds {text}: a seed stands there twice; each names one picture")
    return seeds
