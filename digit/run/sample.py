"""`digit sample`: classes and seeds -> pictures, a grid of them and samples.json."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from digit.bounds import Batch, Count, Draws, Guidance, Temperature, TopP, Weight, Whole
from digit.calls import checked
from digit.errors import DigitError
from digit.printing import put
from digit.run.options import Device, File, Folder, Label, Model, Name, Pictures, Positional, Seeds
from digit.run.table import saved
from digit.run.unused import not_used

GIF = "drawing.gif"
RENDERERS = {  # and the options of each
    "autoregressive": ("renderer_top_k", "renderer_top_p", "renderer_temperature", "renderer_guidance"),
    "masked": ("passes", "noise", "renderer_temperature", "renderer_guidance"),
    "flow": ("passes", "renderer_guidance"),
}


@checked
def sample(
    model: Positional[Model | None] = None,
    *,
    revision: Name | None = None,
    num: Draws | None = None,
    seeds: Seeds | None = None,
    labels: tuple[Label, ...] | None = None,
    unconditional: bool = False,
    prefix_from: Pictures | None = None,
    prefix: Whole | None = None,
    out: Folder = Path("samples"),
    npz: File | None = None,
    gif: bool = False,
    renderer: Literal["flow", "autoregressive", "masked"] | None = None,
    temperature: Temperature | None = None,
    top_k: Whole | None = None,
    top_p: TopP | None = None,
    guidance: Guidance | None = None,
    guidance_schedule: Literal["constant", "linear"] | None = None,
    renderer_temperature: Temperature | None = None,
    renderer_top_k: Whole | None = None,
    renderer_top_p: TopP | None = None,
    renderer_guidance: Guidance | None = None,
    passes: Count | None = None,
    noise: Weight | None = None,
    codes: bool = False,
    batch: Batch | None = None,
    cache_bits: Literal[16, 8] = 16,
    device: Device | None = None,
) -> dict[str, Any]:
    """Draw pictures: one 000000.png per seed, grid.png (of the first 256) and samples.json.

    On one kind of device a seed gives the same picture, whatever the --batch and however many processes draw;
    without --labels its class is the seed modulo the number of classes. Memory holds one batch. What an
    interrupted command drew is kept when it is repeated. Settings left out are the model's own, as
    `digit info MODEL` lists them.
    With --prefix-from, the prior completes pictures of yours: it is given the first --prefix codes of each
    and draws the rest, once per seed; a strip per picture shows the original, the picture from all of its
    codes, and the completions.

    Example: digit sample --labels cat dog --num 32 --out pets
    Example: digit sample runs/model --prefix-from shoe.jpg --prefix 128 --out shoes

    Args:
        model: a folder, a bundled model's name, or owner/name on the hub; the bundled one if left out.
        revision: of a model on the hub: a branch, tag or commit; owner/name@revision says it for every verb.
        num: how many pictures; seeds count from 0. 16 if neither this nor --seeds is given, and 8 of each
            picture to complete.
        seeds: which ones, as 0-63 or 1,5,9-12; in Python also a list of numbers.
        labels: class names or numbers, one per seed; fewer are repeated in turn. Without, a seed has its own.
        unconditional: draw without a class.
        prefix_from: a picture, or a folder, zip or tar of them, to complete; their class is that of
            --labels (one per picture), or their folder where the model knows it, else each seed's.
        prefix: how many codes of each picture to keep, in raster order.
        out: folder for the pictures.
        npz: a file for all of them as well (arr_0 uint8 n h w 3, labels arr_1), as ADM's evaluation reads it.
        gif: also write drawing.gif, in which codes and pictures of the first 16 seeds arrive; they are drawn
            once more for it.
        renderer: which one draws; the first of these that the model has if left out.
        temperature: of the prior; 0 takes the likeliest code.
        top_k: keep the k likeliest codes of the prior; 0 keeps all.
        top_p: keep the prior's likeliest codes up to this probability; 1 keeps all.
        guidance: classifier-free guidance of the prior; 1 is none.
        guidance_schedule: linear lets it grow from 1 at the first code to its value at the last.
        renderer_temperature: of the autoregressive or the masked renderer.
        renderer_top_k: of the autoregressive renderer.
        renderer_top_p: of the autoregressive renderer.
        renderer_guidance: of a renderer that knows classes, which adds to --guidance; 1 is none. The flow
            renderer's is by codes too, and takes a second pass at each step.
        passes: of the flow renderer; of the masked one, where more draw fewer codes in each.
        noise: of the masked renderer: weight of the Gumbel noise on its confidence.
        codes: also write the codes and VQ codes into samples.json.
        batch: pictures at once; 64 if left out, on a GPU an eighth of all, up to 1024 as its memory allows.
        cache_bits: of the keys and values that attention keeps; 8 draws faster on a GPU with Triton, and
            changes pictures a little.
        device: cpu, cuda, cuda:N or mps; an NVIDIA GPU if there is one.
    """
    wanted = _wanted(num, seeds, default=16 if prefix_from is None else 8)
    _check(labels, unconditional, prefix_from, prefix, npz)
    if gif and prefix_from is not None:
        raise DigitError("--gif shows pictures that are drawn from nothing: give no --prefix-from")
    from digit.data.identity import of_set
    from digit.distributed import by_main, is_main
    from digit.files import check_writable, make_folder
    from digit.locks import locked
    from digit.request import at_once, seeds_and_labels
    from digit.run.animation import animate
    from digit.run.claim import claim, nothing_left
    from digit.run.complete import complete
    from digit.run.draw import draw, finish_drawing, made_of, open_model

    pipeline, config = open_model(
        model, renderer=renderer, encodes=prefix_from is not None, device=device, revision=revision
    )
    batch = batch or at_once(pipeline.device, len(wanted) // 8)  # eight processes have work then
    classes = pipeline.prior.config.classes
    if prefix_from is None:
        wanted, chosen = seeds_and_labels(
            labels, None, wanted, unconditional=unconditional, names=pipeline.classes, classes=classes
        )
    else:
        chosen = None if labels is None else pipeline.label_ids(labels)
    out, npz = Path(out), npz and Path(npz)
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
        "renderer_guidance": renderer_guidance,
        "steps": passes,
        "noise": noise,
        **({} if cache_bits == 16 else {"cache_bits": cache_bits}),
    }
    any_class = [0] * len(wanted) if classes and not unconditional else None
    asked = {name: value for name, value in settings.items() if name != "cache_bits"}
    pipeline.requested(wanted, any_class if prefix_from is not None else chosen, **asked)
    length = pipeline.prior.config.length
    if prefix is not None and prefix > length:
        raise DigitError(f"--prefix {prefix}: pictures of this model have {length} codes, give 0 to {length}")
    if cache_bits == 8 and pipeline.device.type != "cuda":
        raise DigitError("a cache of 8 bits needs a GPU and Triton: leave --cache-bits at 16")
    _say_unused(pipeline.renderer_called(renderer), settings | {"passes": passes})
    how: dict[str, Any] = {"labels": chosen, "settings": settings, "codes": codes, "batch": batch}
    about: dict[str, Any] = {"seeds": wanted, "labels": chosen, "codes": codes}
    about["settings"] = {**settings, "cache_bits": cache_bits}
    about |= {"pictures": of_set(prefix_from), "known": prefix, "unconditional": unconditional}
    folders = (out, *([] if npz is None else [npz.parent]))
    for prepare in (check_writable, make_folder):  # all are looked at before one is made
        for folder in folders:
            prepare(folder)
    with by_main(locked(out, f"another process is drawing pictures into {out}: wait, or choose --out")):
        files = () if npz is None else (npz,)
        claimed = claim(out, "sample", made_of(config, **about, gif=gif or None), files=files)
        if claimed.record is not None:
            nothing_left(out)
            return {**claimed.record, "out": out, "grid": out / "grid.png", "list": out / "samples.json"}
        with claimed.begun(*files):
            if prefix_from is not None and prefix is not None:
                how["unconditional"] = unconditional
                content = complete(pipeline, prefix_from, out, known=prefix, seeds=wanted, **how)
            else:
                how |= {"npz": npz, "turn": len(labels or ()) or classes}
                content = draw(pipeline, wanted, out, made_with=config, **how)
        if not is_main():
            return {}
        if gif:
            animate(pipeline, wanted, chosen, out / GIF, **settings)
        finish_drawing(out, {"model": model or "bundled", **content})
        record: dict[str, Any] = {
            "pictures": len(content["samples"]),
            **({"strips": len(content["strips"])} if "strips" in content else {}),
            "out": out,
            "grid": out / "grid.png",
            "list": out / "samples.json",
            "settings": content["settings"],
        }
        drawn = [row["file"] for row in (*content["samples"], *content.get("strips", ()))]
        drawn += [GIF] * gif
        claimed.finish(record, [*drawn, "grid.png", "samples.json", *(file.absolute() for file in files)])
    _tell(content)
    saved(out / "grid.png", *[out / GIF] * gif, out / "samples.json", *([] if npz is None else [npz]))
    return record


def _wanted(num: int | None, seeds: str | Sequence[int] | None, *, default: int) -> list[int]:
    """The seeds asked for."""
    if seeds is None:
        return list(range(default if num is None else num))
    if num is not None:
        raise DigitError("--num and --seeds say the same thing twice: give one of them")
    wanted = parse_seeds(seeds) if isinstance(seeds, str) else list(seeds)
    if not wanted or len(set(wanted)) < len(wanted):
        what = "a seed stands there twice" if wanted else "there is none"
        raise DigitError(f"--seeds {seeds}: {what}; each names one picture")
    return wanted


def _check(
    labels: tuple[str | int, ...] | None,
    unconditional: bool,
    prefix_from: str | Path | None,
    prefix: Whole | None,
    npz: Path | None,
) -> None:
    """DigitError for options that exclude each other or mean nothing."""
    if (prefix_from is None) != (prefix is None):
        raise DigitError("--prefix-from and --prefix go together: which pictures, and how many codes of each")
    if unconditional and labels:
        raise DigitError("--unconditional and --labels exclude each other: give one of them")
    if npz is not None and (Path(npz).suffix != ".npz" or prefix_from is not None):
        raise DigitError(f"--npz {npz}: name a file that ends in .npz, and give no --prefix-from")


def _say_unused(renderer: str | None, settings: dict[str, Any]) -> None:
    """A line for settings of a renderer that does not draw."""
    from digit.progress import say

    other = f"the {renderer} one draws" if renderer else "this model has none"
    own, unused = RENDERERS.get(renderer or "", ()), dict[str, list[str]]()
    for option in dict.fromkeys(option for options in RENDERERS.values() for option in options):
        if settings[option] is not None and option not in own:
            owners = " or ".join(name for name, options in RENDERERS.items() if option in options)
            unused.setdefault(owners, []).append(option)
    for owners, options in unused.items():
        say(not_used(options, f"of the {owners} renderer, and {other}"))


def _tell(content: dict[str, Any]) -> None:
    """How many pictures there are, and how they were drawn."""
    rows, settings = content["samples"], content["settings"]
    classes = {row["label"] for row in rows}
    of = "without a class" if classes == {None} else f"of {len(classes)} class{'es' * (len(classes) > 1)}"
    if "strips" in content:
        of += f", completions of {len(content['strips'])}"
    put(f"{len(rows):,} picture{'s' * (len(rows) != 1)} {of}")
    for stage, name in (("prior", "prior"), (settings["renderer"], f"{settings['renderer']} renderer")):
        if stage:
            put(f"{name}: {words(settings[stage])}")


def words(settings: dict[str, Any]) -> str:
    """Settings of a sampler in a line, but for those that change nothing."""
    idle = {"top_k": 0, "top_p": 1, "guidance": 1, "top_p_of": "codes", "guidance_schedule": "constant"}
    told = {name: value for name, value in settings.items() if idle.get(name) != value}
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in told.items())


def parse_seeds(text: str) -> list[int]:
    """`0-3,7` as [0, 1, 2, 3, 7].

    Raises:
        DigitError: not a list of numbers and ranges.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not found or (found[2] and int(found[2]) < int(found[1])):
            raise DigitError(f"--seeds {text}: write numbers and rising ranges, as 0-63 or 1,5,9-12")
        first, last = int(found[1]), int(found[2] or found[1])
        if last >= 2**63 or len(seeds) + last - first >= 10**7:
            raise DigitError(f"--seeds {part}: give seeds below 2^63, and 10,000,000 at most")
        seeds.extend(range(first, last + 1))
    return seeds
