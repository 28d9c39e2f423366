"""Real pictures -> codes -> pictures: from all of their codes, or from the first, which a prior completes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digit.data.images import ImageSource
from digit.data.loader import stream
from digit.errors import DigitError
from digit.evaluation.codes_back import codes_back
from digit.evaluation.measure import Measured, measure
from digit.evaluation.networks import Network
from digit.evaluation.pictures import Pictures, open_pictures, without_statistics
from digit.evaluation.prefix import PAPER as PAPER_PREFIX
from digit.evaluation.prefix import PROTOCOL as PROTOCOL_PREFIX
from digit.evaluation.prefix import Completer, Point, as_rows, named, of_rows, prefix_distances
from digit.evaluation.protocols import OWN, check_number
from digit.evaluation.result import write_result
from digit.evaluation.scores import Moments, frechet_distance, inception_score
from digit.files import atomic_file
from digit.nn.sampling import DRAW, SamplerConfig
from digit.pipeline import RENDERERS, DigitPipeline
from digit.printing import listed
from digit.progress import progress, say
from digit.rendering import to_uint8
from digit.run.evaluate.measurement import earlier, ids_of, of_networks, record, unlike_names
from digit.run.grid import grid

REAL, DIGIT, FLOW, VQ = "real pictures", "DiGIT + VQ", "DiGIT + flow", "VQ only"
PAPER = {f"paper, {DIGIT}": (1.92, 184.40), f"paper, {VQ}": (1.67, 175.56)}  # FID, IS
PROTOCOL = (
    "the same pictures on both sides: VQ only = VQGAN decoder of its own codes of a picture; DiGIT + VQ ="
    " discriminative codes of the picture, VQ codes drawn by the renderer, VQGAN decoder; no prior, so"
    " nothing of the codes is generated; PSNR in dB over all pixels of all pictures, after rounding to bytes"
)
PROTOCOL_FLOW = f"{PROTOCOL}; DiGIT + flow = pixels drawn by the flow renderer of the discriminative codes"
CONDITIONS = "the paper's rows: FID and IS, 50,000 ImageNet validation pictures, 256 px, InceptionV3"
BACK = "codes back"  # share of codes, see digit.evaluation.codes_back
SHOWN = 16  # pictures beside their reconstructions

Way = Callable[[Tensor, list[int]], Tensor]  # pixels in [0, 1] and seeds -> bytes
Labels = Callable[[list[int]], list[int]]  # seeds -> classes of their pictures
Models = Mapping[str, DigitPipeline]


def renderer_settings(
    pipeline: DigitPipeline, renderer: str | None, *, labelled: bool = False
) -> dict[str, Any]:
    """The renderer's name and how the model lets it draw; {} without a renderer.

    One that knows classes is told them, and guided, if the pictures are `labelled`. Raises DigitError where
    they are not and it draws by class only.
    """
    if not pipeline.renderers:
        return {}
    chosen: Any = pipeline.renderer_called(renderer)
    if chosen == "flow":
        told = {"name": chosen, "steps": pipeline.sampling.flow_steps}
        told["guidance"] = pipeline.sampling.flow_guidance
        return told | ({"classes": labelled} if pipeline.renderer_classes(chosen) else {})
    own = pipeline.sampling.masked if chosen == "masked" else pipeline.sampling.renderer
    told = {"name": chosen, "temperature": own.temperature, "top_k": own.top_k, "top_p": own.top_p}
    if not pipeline.renderer_classes(chosen):
        return told
    if not labelled:
        getattr(pipeline, RENDERERS[chosen]).config.labels_for(1, None, guidance=1.0)
    return {**told, "classes": labelled, "guidance": own.guidance if labelled else 1.0}


def ways_back(
    pipeline: DigitPipeline, settings: Mapping[str, Any], labels: Labels | None = None
) -> dict[str, Way]:
    """How pictures come back, by the name of the row: through the renderer and by VQ codes alone.

    `labels` are the pictures' where `settings` say that the renderer is told them.
    """
    own, ways = pipeline.sampling, dict[str, Way]()
    if (vqgan := pipeline.vqgan) is not None:
        ways[VQ] = lambda pixels, seeds: to_uint8(vqgan.decode(vqgan.encode(pixels)))
    if pipeline.tokenizer is None or not settings:
        return ways

    def given(pixels: Tensor, seeds: list[int]) -> tuple[Tensor, list[int] | None]:
        told = labels(seeds) if labels is not None and settings.get("classes") else None
        return pipeline.encode(pixels).to(pixels.device), told

    if (flow := pipeline.renderer_flow) is not None and settings["name"] == "flow":
        how = {name: settings[name] for name in ("steps", "guidance")}

        def by_flow(pixels: Tensor, seeds: list[int]) -> Tensor:
            codes, told = given(pixels, seeds)
            return to_uint8(flow.sample(codes, seeds, told, **how))

        return {FLOW: by_flow, **ways}
    assert vqgan is not None, "a pipeline has a VQGAN where VQ codes are drawn"
    config = SamplerConfig(
        **{name: value for name, value in settings.items() if name not in ("name", "classes")}
    )
    masked = settings["name"] == "masked"
    renderer: Any = pipeline.renderer_masked if masked else pipeline.renderer
    how = {"steps": own.masked_steps, "noise": own.masked_noise} if masked else {}

    def digit(pixels: Tensor, seeds: list[int]) -> Tensor:
        codes, told = given(pixels, seeds)
        drawn = renderer.sample(codes, seeds, config, labels=told, batch_size=len(seeds), **how)
        return to_uint8(vqgan.decode(drawn))

    return {DIGIT: digit, **ways}


@torch.inference_mode()
def reconstruct(
    pictures: Iterable[Tensor],
    ways: Mapping[str, Way],
    networks: Sequence[Network],
    *,
    tokenise: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
    """Send batches of pixels in [0, 1] every way back and measure what comes; picture i has seed i.

    With `tokenise`, bytes to codes, also which codes come back. Returns values by row and name, the real
    pictures first, and the first pictures of each row as bytes.
    """
    back: dict[str, list[Tensor]] = {}
    moments: dict[tuple[str, int], Moments] = {}
    scores: dict[tuple[str, int], list[Tensor]] = {}
    errors, shown, count, values = dict.fromkeys(ways, 0.0), {}, 0, 0
    for pixels in pictures:
        seeds, real = list(range(count, count + len(pixels))), to_uint8(pixels)
        given = {REAL: real} | {name: way(pixels, seeds) for name, way in ways.items()}
        for name, again in given.items():
            for key, network in (((name, i), network) for i, network in enumerate(networks)):
                features, probabilities, _ = network.outputs(again)
                if key not in moments:
                    moments[key] = Moments(features.shape[1], device=features.device)
                moments[key].update(features)
                if probabilities is not None:
                    scores.setdefault(key, []).append(probabilities.cpu())
        for name in ways:
            errors[name] += float((given[name].double() - real.double()).square().sum()) / 255**2
        if tokenise is not None:
            codes = tokenise(real)
            for name in ways:
                back.setdefault(name, []).append(codes_back(codes, tokenise(given[name])))
        shown = shown or {name: part[:SHOWN].cpu() for name, part in given.items()}
        count, values = count + len(real), values + real.numel()
    rows: dict[str, dict[str, float]] = {REAL: {}}
    rows |= {name: {"PSNR": -10 * math.log10(max(errors[name] / values, 1e-12))} for name in ways}
    for name, shares in back.items():
        rows[name][BACK] = float(torch.cat(shares).mean())
    for name, row in rows.items():
        for i, network in enumerate(networks):
            if name != REAL:
                row[network.metric("FD")] = frechet_distance(moments[name, i], moments[REAL, i])
            if (name, i) in scores:
                drawn = torch.cat(scores[name, i])
                row[network.metric("IS")] = inception_score(drawn, splits=min(10, len(drawn)))[0]
    return rows, shown


def save_rows(rows: Mapping[str, Tensor], path: Path) -> None:
    """Write a PNG with a row of pictures, bytes n 3 h w, for each name."""
    with atomic_file(path) as file:
        columns = len(next(iter(rows.values())))
        grid(torch.cat(list(rows.values())), columns=columns, beside=list(rows)).save(file, "png")


def open_models(models: Sequence[str], device: torch.device) -> dict[str, DigitPipeline]:
    """Whole models by the names of their folders; DigitError where they draw at unequal sizes."""
    if not models:
        raise DigitError("no model: give at least one folder, bundled model or owner/name on the hub")
    names = unlike_names([Path(model) for model in models], "the list of models")
    opened = [DigitPipeline.from_pretrained(model, device=device) for model in models]
    pipelines = dict(zip(names, opened, strict=True))
    sides = {name: pipeline.image_size for name, pipeline in pipelines.items()}
    if len(set(sides.values())) > 1:
        raise DigitError(f"the models draw at unequal sizes ({sides}): compare models of one size")
    return pipelines


def settings_of(guidance: float | None, classes: bool, **given: float | int | None) -> dict[str, Any]:
    """The settings that were given, checked before anything is encoded.

    Raises DigitError for one that no prior may have, or guidance where no model completes with classes.
    """
    settings: dict[str, Any] = {name: number for name, number in given.items() if number is not None}
    SamplerConfig(**settings)
    if guidance not in (None, 1.0) and not classes:
        raise DigitError(
            f"--guidance {guidance} needs pictures in folders of a known class: give such, or leave it out"
        )
    return settings


class Curve:
    """What prefix.json holds: the points so far, and what they were measured of."""

    def __init__(
        self,
        models: Models,
        source: ImageSource,
        networks: Sequence[Network],
        device: torch.device,
        asked: dict[str, Any],
        written: Path | None,
    ) -> None:
        """Takes up the points of an earlier call in `written`; DigitError if they are of something else."""
        self.models, self.source, self.networks = models, source, networks
        self.device, self.written = device, written
        self.asked = {**asked, "draw": DRAW, "fingerprint": source.fingerprint}
        self.counts = {"samples": len(source), "reference": len(source)}
        self.points: list[Point] = []
        # By model: its stages, its own settings, and those it drew with.
        self.of_models: dict[str, dict[str, Any]] = {
            "models": {name: ids_of(pipeline) for name, pipeline in models.items()},
            "sampling": {name: asdict(pipeline.sampling) for name, pipeline in models.items()},
            "drawn": {},
        }
        before = earlier(written, "prefix", self._alike)
        if before is not None:
            self.points, self.counts = of_rows(before.get("points"), where=written), before["counts"]
            for kind, own in self.of_models.items():
                self.of_models[kind] = {**before["settings"].get(kind, {}), **own}
            if strangers := {point.model for point in self.points} - self.of_models["models"].keys():
                raise DigitError(f"{written} has points of {listed(strangers)} alone: choose another --out")

    def _alike(self, before: dict[str, Any]) -> bool:
        settings = before["settings"]
        return (
            before["features"] == of_networks(self.networks)
            and before["counts"].get("samples") == self.counts["samples"]
            and all(settings.get(name) == given for name, given in self.asked.items())
            and all(isinstance(settings.get(kind, {}), dict) for kind in self.of_models)
            and all(
                settings.get(kind, {}).get(name, found) == found
                for kind, own in self.of_models.items()
                for name, found in own.items()
            )
        )

    def left(self, prefixes: Sequence[int]) -> dict[str, list[int]]:
        """The lengths that are not measured yet, by model."""
        done = {(point.model, point.prefix) for point in self.points}
        left = {
            name: [n for n in set(prefixes) if n <= pipe.prior.config.length and (name, n) not in done]
            for name, pipe in self.models.items()
        }
        if self.points:
            say(f"{len(self.points)} points were measured before, {sum(map(len, left.values()))} are left")
        return left

    def add(self, point: Point) -> None:
        """Count a point, and write all of them if there is a file."""
        self.points.append(point)
        if self.written is not None:
            write_result(self.written, self.value())

    def value(self) -> dict[str, Any]:
        """The result so far, points in the order of models and lengths."""
        order = list(self.of_models["models"])
        self.points.sort(key=lambda point: (order.index(point.model), point.prefix))
        told = {"counts": self.counts, "features": of_networks(self.networks)}
        told |= {"protocol": PROTOCOL_PREFIX, "settings": {**self.asked, **self.of_models}}
        value = record("prefix", named(self.points), self.device, **told)
        return {**value, "points": as_rows(self.points), "paper": PAPER_PREFIX}

    def measure(
        self,
        prefixes: Sequence[int],
        labels: Mapping[str, list[int] | None],
        how: Mapping[str, Any],
        *,
        reference: ImageSource | Pictures | None,
        few: bool,
    ) -> None:
        """Complete the pictures from their first codes, and add the points that are left.

        `labels` are their classes as each model knows them, `how` settings of the pipeline's call. Guidance
        holds for models that complete with classes, a renderer for those that have one: a baseline may stand
        beside them. `reference` are other pictures to compare with.
        """
        left, batch, others = self.left(prefixes), how["batch_size"], None
        if not any(left.values()):
            say("nothing is left to do")
            return
        if reference is not None:
            side = next(iter(self.models.values())).image_size
            others = without_statistics(open_pictures(reference, size=side, batch_size=batch))
            self.counts["reference"] = others.n or 0
            check_number(others.name, others.n or 0, OWN, few=few, reference=True)
        codes, real = encode(self.source, self.models, self.networks, batch=batch, device=self.device)
        if others is not None:
            real = measure(others, self.networks, device=self.device)
        work = [len(self.source) * p.work(1, prefix=n) for name, p in self.models.items() for n in left[name]]
        with progress("complete", sum(work)) as advance:
            how = {**how, "progress": advance}
            completers = [self._completer(name, codes[name], labels[name], how) for name in self.models]
            wanted = sorted({n for lengths in left.values() for n in lengths})
            done = {(point.model, point.prefix) for point in self.points}
            options: Any = {"batch_size": batch, "device": str(self.device), "done": done}
            for point in prefix_distances(completers, wanted, self.networks, real, **options):
                self.add(point)

    def _completer(
        self, name: str, codes: Tensor, labels: list[int] | None, how: Mapping[str, Any]
    ) -> Completer:
        pipeline = self.models[name]
        own = {**how, "guidance": how["guidance"] if labels else None}
        own["renderer"] = how["renderer"] if pipeline.renderers else None

        def complete(prefix: Tensor, numbers: Sequence[int]) -> Tensor:
            classes = None if labels is None else [labels[i] for i in numbers]
            # Never the seed's class: one that is not the picture's would count against the model.
            how = {**own, "unconditional": classes is None}
            drawn = pipeline(classes, seeds=list(numbers), prefix=prefix.long(), **how)
            used = {setting: value for setting, value in drawn.settings.items() if setting != "prefix"}
            self.of_models["drawn"][name] = {**used, "classes": classes is not None}
            return drawn.pixels

        return Completer(name, codes, complete)


def encode(
    source: ImageSource, models: Models, networks: Sequence[Network], *, batch: int, device: torch.device
) -> tuple[dict[str, Tensor], list[Measured]]:
    """Every model's codes and the networks' statistics of the pictures, in one pass over the files."""
    parts: dict[str, list[Tensor]] = {name: [] for name in models}
    side = next(iter(models.values())).image_size

    def pictures() -> Iterator[Tensor]:
        for _, views in stream(source, side, batch_size=batch, strict=True):
            pixels = views[:, 0]
            for name, pipeline in models.items():
                parts[name].append(pipeline.encode(pixels.float() / 255).to(torch.int32))
            yield pixels
            advance(len(pixels))

    with progress("encode", len(source)) as advance:
        real = measure(Pictures(source.path.name, pictures(), len(source)), networks, device=device)
    return {name: torch.cat(rows) for name, rows in parts.items()}, real
