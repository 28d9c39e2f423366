"""What the parts do: a function each, given the run; each leaves its results in OUT/results."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import classifier
import torch
from cifar10.compute import matched_steps
from measuring.plan import MODELS
from measuring.scale import FREE, Scale
from measuring.winners import draw_winners

from digit.data.codes import Codes
from digit.data.images import open_images
from digit.errors import DigitError
from digit.evaluation.images import compare
from digit.evaluation.measure import measure
from digit.evaluation.networks import open_network
from digit.evaluation.pictures import of_images
from digit.evaluation.result import result, write_result
from digit.files import read_json
from digit.run.compose import compose
from digit.run.evaluate.prefix import evaluate_prefix
from digit.run.evaluate.probe import evaluate_probe
from digit.run.evaluate.projection import evaluate_projection
from digit.run.evaluate.reconstruction import evaluate_reconstruction
from digit.run.evaluate.sweep import evaluate_sweep
from digit.run.tokenize import tokenize
from digit.run.train.prior import train_prior
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.log import read_status
from digit.weights.artifact import load

TOP_P = 0.9  # of the prefix curves and the reconstruction: what the bundled model draws with


@dataclass(frozen=True)
class Run:
    """Where everything lies, how large it is, and when this process must end."""

    images: Path
    test: Path
    squeezenet: Path
    bundled: Path  # folder of the model that is measured beside the VQ-only one
    out: Path
    scale: Scale
    device: torch.device
    deadline: float  # of time.monotonic()

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    @property
    def results(self) -> Path:
        """Folder of the JSON files and plots."""
        return self.out / "results"

    @property
    def features(self) -> tuple[str, str]:
        """Both networks that measure, the classifier first."""
        return f"classifier:{self.out / 'classifier' / 'artifact'}", f"squeezenet:{self.squeezenet}"

    def model(self, system: str) -> str:
        """The model that a system of the plan draws with."""
        return str(self.out / MODELS[system] if system in MODELS else self.bundled)

    @property
    def side(self) -> int:
        """Of the pictures, in pixels."""
        return int(read_json(self.bundled / "vqgan" / "config.json")["config"]["image_size"])


def do(name: str, run: Run) -> None:
    """One part of the plan."""
    kind, *rest = name.split("-")
    run.results.mkdir(parents=True, exist_ok=True)
    functions: dict[str, Any] = {
        "classifier": judge,
        "codes": codes,
        "prior_vq": prior_vq,
        "prior_vq_compute": prior_vq_compute,
        "prefix": prefix,
        "prefix_train": prefix_train,
        "sweep": sweep,
        "winners": winners,
        "probe": probe,
        "reconstruction": reconstruction,
        "projection": projection,
    }
    functions[kind](run, *rest)


def judge(run: Run) -> None:
    """The classifier; its accuracy is that of the stored artifact, which measures everything else."""
    out = run.out / "classifier"
    files = ["--images", str(run.images), "--test", str(run.test), "--out", str(out)]
    limit = ["--limit", str(run.left)]
    classifier.main([*files, *run.scale.classifier, "--device", str(run.device), *limit])
    status = read_status(out)
    if status is None or not status.finished:
        raise DigitError(f"the classifier in {out} is unfinished: repeat the command")
    network = open_network(run.features[0], device=run.device)
    test = of_images(open_images(run.test), size=run.side, batch_size=1000)
    found = measure(test, [network], device=run.device)[0]
    values = dict(compare(network, found, found, labels=test.labels, metrics=["class_accuracy", "is"]))
    training = {name: value for name, value in read_json(out / "result.json").items() if name != "step"}
    write_result(
        run.results / "classifier.json",
        result(
            "classifier",
            values.items(),
            protocol="test pictures, one view each, by the artifact as stored; the score is of real pictures",
            counts={"pictures": test.n or 0},
            features=[{"name": network.name, "sha256": network.sha256}],
            settings={**training, "seconds": status.seconds, "options": list(run.scale.classifier)},
            device=device_name(run),
        ),
    )


def codes(run: Run, which: str) -> None:
    """Both kinds of codes of a set, by the bundled tokenizer and VQGAN, two views of each picture."""
    model = run.bundled
    tokenize(
        str(run.images if which == "train" else run.test),
        run.out / f"codes-{which}",
        tokenizer=model / "tokenizer",
        vqgan=model / "vqgan",
        batch=512,
        device=str(run.device),
    )


def prior_vq(run: Run) -> None:
    """The baseline: the bundled prior's shape, steps and settings (experiments/cifar10.sh) over VQ codes."""
    _trained(run, "prior_vq", run.scale.steps)


def prior_vq_compute(run: Run) -> None:
    """The same run, taken on until it had the compute of the bundled prior and renderer together."""
    opened = Codes(run.out / "codes-train", verify=False)
    steps = matched_steps(
        run.scale.steps,
        codes=opened.vocabulary("codes"),
        length=opened.length("codes"),
        vq_codes=opened.vocabulary("vq_codes"),
        vq_length=opened.length("vq_codes"),
    )
    before, here = run.out / "prior_vq", run.out / "prior_vq_compute"
    if (before / "state").exists() and not here.exists():
        shutil.copytree(before, here)
    _trained(run, "prior_vq_compute", steps)


def _trained(run: Run, name: str, steps: int) -> None:
    scale, out = run.scale, run.out / name
    how = OptimizerConfig(
        lr=6e-4,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        decay_all=False,
        schedule="constant",
        warmup=scale.warmup,
    )
    training = TrainConfig(
        steps=steps,
        batch=scale.batch,
        optimizer=how,
        ema=0.999,
        save_every=1000,
        keep=1,
        log_every=100,
        evaluate_every=1000,
        compile=scale.compile,
        wall_clock_limit=run.left,
    )
    told = train_prior(
        run.out / "codes-train",
        out,
        over="vq_codes",
        width=scale.width,
        layers=scale.layers,
        norm="pre",
        dropout=0.1,
        label_dropout=0.1,
        training=training,
        held_out=run.out / "codes-test",
        device=str(run.device),
    )
    if not told["finished"]:
        raise DigitError(f"the training in {out} is unfinished: repeat the command")
    model = run.out / name.replace("prior", "model")
    if not (model / "config.json").exists():
        compose(out, model, vqgan=run.bundled / "vqgan", stored_as="int8")  # stored as the bundled model is
    network: Any = load(model / "prior", kind="prior")
    write_result(
        run.results / f"{name}.json",
        result(
            "training",
            [("parameters", sum(each.numel() for each in network.parameters())), ("steps", steps)],
            protocol="a prior over VQ codes, seed 0; stored and measured in 8 bits, as the bundled model",
            counts={"batch": scale.batch},
            features=[],
            settings={"width": scale.width, "layers": scale.layers, "seconds": told["seconds"]},
            device=device_name(run),
        ),
    )


def prefix(run: Run, system: str, way: str) -> None:
    """Figure 4b: the test pictures' first codes given, distance to the test pictures, as in the paper."""
    _prefix(run, system, way, str(run.test), None, run.scale.prefixes, f"prefix-{system}-{way}.json")


def prefix_train(run: Run, system: str, way: str) -> None:
    """A check of it: codes of training pictures are given, so that no reference picture is its own source."""
    source, reference = str(run.images), str(run.test)
    _prefix(
        run, system, way, source, reference, (run.scale.prefix_checks,), f"prefix_train-{system}-{way}.json"
    )


def _prefix(
    run: Run,
    system: str,
    way: str,
    source: str,
    reference: str | None,
    groups: tuple[tuple[int, ...], ...],
    name: str,
) -> None:
    for lengths in groups:
        evaluate_prefix(
            (run.model(system),),
            source,
            lengths,
            features=run.features,
            reference=reference,
            num=run.scale.prefix_pictures,
            unconditional=way == FREE,
            temperature=1.0,
            top_k=0,
            top_p=TOP_P,
            guidance=1.0,  # the paper's
            out=run.results / name,
            device=str(run.device),
            **run.scale.how,
        )


def sweep(run: Run, system: str, way: str) -> None:
    """Figure 6: the grids one after the other into one result."""
    renderers: dict[str, Any] = {"digit": "autoregressive", "masked": "masked"}
    for grid in run.scale.grids[system, way]:
        axes: dict[str, Any] = dict(grid)
        evaluate_sweep(
            run.model(system),
            reference=str(run.test),
            renderer=renderers.get(system),
            unconditional=way == FREE,
            features=run.features,
            recall=True,
            num=run.scale.cell,
            out=run.results / f"sweep-{system}-{way}.json",
            device=str(run.device),
            **axes,
            **run.scale.how,
        )


def winners(run: Run, system: str, way: str) -> None:
    """The best settings of a sweep by each network, drawn again with other seeds and measured in full."""
    networks = [open_network(spec, device=run.device) for spec in run.features]
    draw_winners(
        run.results / f"sweep-{system}-{way}.json",
        run.results / f"winners-{system}-{way}.json",
        model=run.model(system),
        masked=system == "masked",
        networks=networks,
        reference=of_images(open_images(run.test), size=run.side, batch_size=1000),
        scale=run.scale,
        device=run.device,
    )


def probe(run: Run) -> None:
    """Table 2, figure 3b: linear heads on every layer of both priors, and on the encoder."""
    model = run.bundled
    evaluate_probe(
        (model / "prior", run.out / "model_vq" / "prior"),
        (run.out / "codes-train",),
        test=(run.out / "codes-test",),
        encoder_of=(model / "tokenizer",),
        images=str(run.images),
        test_images=str(run.test),
        views=run.scale.probe_views,
        epochs=run.scale.probe_epochs,
        batch=1000,
        out=run.results / "probe.json",
        device=str(run.device),
    )


def reconstruction(run: Run) -> None:
    """Rows "DiGIT + VQ" and "VQ only" of table 3, by both renderers."""
    for name, renderer in (("reconstruction", "autoregressive"), ("reconstruction-masked", "masked")):
        how: Any = {"renderer": renderer, **run.scale.how}
        out, where = run.results / f"{name}.json", str(run.device)
        evaluate_reconstruction(
            str(run.bundled), str(run.test), features=run.features, out=out, device=where, **how
        )


def projection(run: Run) -> None:
    """Figure 5: the toy, and both projections of the bundled tokenizer's features of test pictures."""
    evaluate_projection(
        out=run.results / "projection.json",
        images=str(run.test),
        tokenizer=run.bundled / "tokenizer",
        per_class=run.scale.per_class,
        size=run.side,
        batch=1000,
        device=str(run.device),
    )
    for name in ("toy", "features"):
        (run.results / f"{name}.png").replace(run.results / f"projection-{name}.png")


def device_name(run: Run) -> str:
    """For the record."""
    return torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "cpu"
