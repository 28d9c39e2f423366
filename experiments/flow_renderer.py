"""The flow renderer on CIFAR-10: a teacher, students of few passes, and what each draws beside the bundled.

    python experiments/flow_renderer.py --data DATA --out runs/flow
    python experiments/flow_renderer.py --data DATA --out runs/flow --seeds 0 1 2 --draws 5
    python experiments/flow_renderer.py --data tiny --out /tmp/flow --smoke   (any two zips of class folders)

DATA holds cifar10-train.zip, cifar10-test.zip and squeezenet1_1.safetensors (experiments/squeezenet.py).
Codes, prior and the renderers of the paper are the bundled model's. Each part is done once: repeated, the
command goes on where it stopped. Parts in order, of which --only takes some:

    judge    the classifier that measures (experiments/classifier.py); no stage has seen it
    codes    of the training pictures; the test pictures in two halves
    teacher  a flow renderer by pictures, its guidance by a second pass, one for each of --seeds
    student  what it draws, in 1, 2 and 4 passes with guidance inside; with Fréchet distances counted, too
    choose   settings of prior and renderer together, one grid for every renderer, on the first half
    measure  on the second half: real codes, codes of the prior with the settings chosen, by class and without

Expected: out/flow.json with a row for each renderer, and the grids beside it. Its cost is not measured yet.
"""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import classifier
import torch

import digit
from bench.machine import heading
from digit.data.codes import open_codes
from digit.data.images import open_images
from digit.data.views import ViewData
from digit.files import read_json, write_json_atomic
from digit.renderer_flow import FlowRenderer
from digit.renderer_flow_loss import FlowLoss, FlowLossConfig
from digit.run.flow import Taught, config_of, student_of
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.log import read_status
from digit.training.loop import train
from digit.weights.artifact import artifact_of, load, save

MODEL = Path(digit.__file__).parent / "models" / "cifar10"
HALVES = ("first", "second")
PASSES = (1, 2, 4)
GRID: dict[str, tuple[float, ...]] = {"guidance": (1.0, 1.5, 2.0, 3.0), "top_p": (0.9, 1.0)}
RENDERER_GUIDANCE = (1.0, 1.5, 2.0)  # of a flow renderer; the others know no classes
WEIGHT = 0.01  # of the Fréchet distances in a student's loss
PARTS = ("judge", "codes", "teacher", "student", "choose", "measure")


class Experiment:
    """Its folders, its settings, and the parts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out, small = options, options.out, options.smoke
        self.images, self.test = (options.data / f"cifar10-{name}.zip" for name in ("train", "test"))
        self.device = torch.device("cpu" if small or not torch.cuda.is_available() else "cuda")
        squeezenet = options.data / "squeezenet1_1.safetensors"
        others = (f"squeezenet:{squeezenet}",) if squeezenet.exists() else ()
        self.networks: Any = (f"classifier:{self.out / 'judge' / 'artifact'}", *others)
        self.measured: Any = {"features": self.networks, "few": small, "device": str(self.device)}
        self.limit = options.limit

    def judge(self) -> None:
        """The classifier."""
        if not (self.out / "judge" / "artifact").exists():
            small = ["--steps", "2", "--batch", "8", "--width", "4"] if self.options.smoke else []
            given = ["--images", self.images, "--test", self.test, "--out", self.out / "judge"]
            classifier.main([*map(str, given), "--device", str(self.device), *small])

    def codes(self) -> None:
        """The training set's codes, and the halves of the test set."""
        where = str(self.device)
        digit.tokenize(
            str(self.images), self.out / "codes", tokenizer=MODEL / "tokenizer", size=32, device=where
        )
        with zipfile.ZipFile(self.test) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/"))
            for number, half in enumerate(HALVES):
                path = self.out / f"{half}.zip"
                if not path.exists():
                    with zipfile.ZipFile(path.with_suffix(".part"), "w") as copy:
                        for name in names[number::2]:
                            copy.writestr(name, archive.read(name))
                    path.with_suffix(".part").rename(path)

    def teacher(self) -> None:
        """One for each seed."""
        for seed in self.options.seeds:
            self._train(self.out / f"teacher-{seed}", seed, self.options.steps, self.options.batch)

    def student(self) -> None:
        """Of each number of passes, with and without the distances."""
        for seed in self.options.seeds:
            for passes in self.options.passes:
                for weight in self.options.frechet:
                    out = self.out / f"student-{passes}{'-frechet' * bool(weight)}-{seed}"
                    taught = Taught(self.out / f"teacher-{seed}", passes, 2.5)
                    steps, batch = self.options.student_steps, self.options.student_batch
                    self._train(out, seed, steps, batch, taught, weight)

    def _train(
        self, out: Path, seed: int, steps: int, batch: int, taught: Taught | None = None, frechet: float = 0.0
    ) -> None:
        """A flow renderer, by pictures or by its teacher; nothing where it is done."""
        if (out / "config.json").exists():
            return
        codes, tokenizer = open_codes(self.out / "codes"), load(MODEL / "tokenizer", kind="tokenizer")
        classes = list(codes.meta["classes"])
        shape: Any = {"width": 16, "layers": 1} if self.options.smoke else {"width": 256, "layers": 8}
        config = config_of(codes, len(classes), **shape, heads=None, patch=None)
        teacher: Any = None if taught is None else load(taught.teacher, kind="renderer_flow").to(self.device)
        torch.manual_seed(seed)
        renderer = FlowRenderer(config if taught is None else student_of(teacher.config, taught))
        if teacher is not None:
            renderer.load_state_dict(teacher.state_dict(), strict=False)
        losses = FlowLossConfig(frechet_weight=frechet)
        encoder = tokenizer.encoder.to(self.device)
        stage = FlowLoss(renderer, losses, encoder=encoder, teacher=teacher)
        optimizer = OptimizerConfig(
            lr=4e-4 if taught is None else 1e-4,
            betas=(0.9, 0.95),
            weight_decay=0.02,
            decay_all=False,
            schedule="trapezoid",
            warmup=min(200, steps // 10),
        )
        settings = TrainConfig(
            steps=steps,
            batch=batch,
            optimizer=optimizer,
            ema=0.999,
            seed=seed,
            log_every=max(1, steps // 40),
            save_every=max(1, steps // 4),
            wall_clock_limit=self.limit,
        )
        data = ViewData(codes, open_images(self.images), batch_size=batch, seed=seed, device=self.device)
        trained: Any = train(stage, data, settings, out, device=self.device, title=out.name)
        status = read_status(out)
        if status is None or not status.finished:
            raise SystemExit(f"{out.name} is not trained to its end yet: repeat the command to go on")
        extra = {} if taught is None else {"teacher": artifact_of(teacher)["id"]}
        extra |= {"losses": {"frechet_weight": frechet}, "steps": steps, "batch": batch}
        save(trained.renderer, out, lineage=codes.lineage("codes"), classes=classes, extra=extra)

    def models(self) -> dict[str, tuple[Path, str]]:
        """Each renderer in a model of its own, and which renderer of it draws."""
        found = {name: (MODEL, name) for name in ("autoregressive", "masked")}
        for path in sorted((*self.out.glob("teacher-*"), *self.out.glob("student-*"))):
            if (path / "config.json").exists():
                model = self.out / "models" / path.name
                digit.compose(MODEL / "prior", model, renderer_flow=path, tokenizer=MODEL / "tokenizer")
                found[path.name] = (model, "flow")
        return found

    def choose(self) -> None:
        """The best of one grid, by class and without, for each renderer."""
        for name, (model, renderer) in self.models().items():
            grid: Any = {} if self.options.smoke else dict(GRID)
            if renderer == "flow" and not self.options.smoke:
                grid["renderer_guidance"] = RENDERER_GUIDANCE
            for way in ("class", "free"):
                free = way == "free"
                mine = {key: values for key, values in grid.items() if not free or key != "guidance"}
                digit.evaluate_sweep(
                    model,
                    reference=str(self.out / "first.zip"),
                    renderer=renderer,
                    unconditional=free,
                    num=self.options.sweep,
                    out=self.out / "choose" / f"{name}-{way}",
                    batch=self.options.drawn,
                    **mine,
                    **self.measured,
                )

    def measure(self) -> None:
        """A row for each renderer, on the half that chose nothing."""
        rows, half = {}, str(self.out / "second.zip")
        for name, (model, renderer) in self.models().items():
            floor = digit.evaluate_reconstruction(
                model, half, renderer=renderer, batch=self.options.drawn, **self.measured
            )
            rows[name] = {"real codes": floor["values"], "by the prior": {}}
            for way in ("class", "free"):
                path = self.out / "choose" / f"{name}-{way}" / "sweep.json"
                setting = _best(read_json(path), self.networks[0])
                for draw in range(self.options.draws):
                    label = f"{name}-{way}-{draw}"
                    first = 100_000 * (draw + 1)
                    digit.sample(
                        model,
                        seeds=range(first, first + self.options.num),
                        renderer=renderer,
                        unconditional=way == "free",
                        out=self.out / "drawn" / label,
                        batch=self.options.drawn,
                        device=str(self.device),
                        **setting,
                    )
                    result = digit.evaluate_images(str(self.out / "drawn" / label), half, **self.measured)
                    kept = rows[name]["by the prior"].setdefault(way, {"setting": setting, "draws": []})
                    kept["draws"].append(result["values"])
            told = heading("flow renderer", self.device) | {"options": _plain(self.options), "rows": rows}
            write_json_atomic(self.out / "flow.json", told)


def _best(sweep: dict[str, Any], network: str) -> dict[str, Any]:
    """The settings of the lowest distance on the first network."""
    distance = next(name for name in sweep["rows"][0]["values"] if name.startswith("FD-"))
    row = min(sweep["rows"], key=lambda row: row["values"][distance])
    options = {"steps": "passes"}  # as it is called by the verb
    return {options.get(name, name): value for name, value in row["setting"].items() if value is not None}


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: v.name if isinstance(v, Path) else v for name, v in vars(options).items()}


def main(arguments: list[str] | None = None) -> None:
    """Do the parts; `arguments` are the command line's if left out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the pictures")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--only", nargs="+", choices=PARTS, default=PARTS)
    add("--seeds", type=int, nargs="+", default=[0], help="of training")
    add("--passes", type=int, nargs="+", default=list(PASSES), help="of the students")
    add(
        "--frechet", type=float, nargs="+", default=[0.0, WEIGHT], help="weights of the distances, by student"
    )
    add("--steps", type=int, default=8000, help="updates of a teacher")
    add("--batch", type=int, default=512)
    add("--student-steps", type=int, default=1500)
    add("--student-batch", type=int, default=256)
    add("--sweep", type=int, default=4096, help="pictures of each setting")
    add("--num", type=int, default=10_000, help="pictures of each measurement")
    add("--draws", type=int, default=1, help="measurements with other seeds of sampling")
    add("--drawn", type=int, default=1024, help="pictures drawn at once")
    add("--limit", type=float, help="seconds after which a training saves itself and stops")
    add("--smoke", action="store_true", help="tiny, on the CPU, to see that it runs")
    options = parser.parse_args(arguments)
    if options.smoke:
        small = {"steps": 2, "batch": 4, "student_steps": 2, "student_batch": 4, "sweep": 4, "num": 4}
        vars(options).update(small | {"passes": [1], "drawn": 4})
    options.out.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(options)
    for part in PARTS:
        if part in options.only:
            getattr(experiment, part)()


if __name__ == "__main__":
    main()
