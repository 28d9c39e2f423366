"""The paper's measurements on CIFAR-10: the bundled model beside a VQ-only prior trained in the same run.

    python experiments/measurements.py --images cifar10-train.zip --test cifar10-test.zip \
        --squeezenet squeezenet1_1.safetensors --out runs/measurements --results carried --seconds 480

Figure 4b (prefixes), figure 6 (sweeps) and their best settings, table 2 and figure 3b (probes), the
reconstruction rows of table 3, figure 5 (projections). Two networks measure: a classifier trained first, and
SqueezeNet (experiments/squeezenet.py makes its file). Parts run as processes side by side on one device or
on several (--devices), each with a log in OUT/logs; every cell and point is written when it is known.

Cost: the seconds asked for; all of it took 367 s on two H200s (--devices 2). The same command goes on where
the last one stopped, on another machine with `--from RESULTS`, the folder of the last call's --results: at
most four files below 16 MiB. Exit code 0: all done; 3: something is left, or failed (named at the end).

    python experiments/measurements.py --from carried --out runs/measurements \
        --publish bench/results/measurements

writes the JSON files and plots that docs/reproduction.md is made of (experiments/cifar10/report.py).

    python experiments/measurements.py --photos clothing-256.zip --encoder vits14-saliency.safetensors \
        --out runs/measurements

does figure 5 on photos alone, in a quarter of an hour on one CPU core.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from devices import check_devices
from measuring.parcel import pack, unpack
from measuring.photos import project_photos
from measuring.plan import parts
from measuring.publish import publish
from measuring.scale import FULL, SMOKE
from measuring.side_by_side import Desk, side_by_side
from measuring.work import Run, do

from digit.errors import DigitError, on_command_line
from digit.progress import say
from digit.weights.model_folder import locate


@on_command_line()
def main(arguments: list[str] | None = None) -> int:
    """Do what is not done; 0 when all is, 2 for wrong options, 3 when something is left."""
    options = parse(arguments)
    try:
        return run(options)
    except DigitError as error:
        say(f"measurements: {error}")
        return 2


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, help="training pictures in one folder per class")
    add("--test", type=Path, help="pictures to measure on, in the same folders")
    add("--squeezenet", type=Path, help="file of the second network")
    add("--model", help="folder or name of the model to measure; the bundled one if left out")
    add("--photos", type=Path, help="with --encoder: only project these photos, of 256 px in train/ and val/")
    add("--encoder", type=Path, help="file of a ViT-S/14 in DINOv2's names")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--results", type=Path, help="folder for what is carried away; OUT/carried if left out")
    add("--from", dest="source", type=Path, help="the --results of an earlier call, to go on from")
    add("--publish", type=Path, help="only write the JSON files and plots of what is done into this folder")
    add("--seconds", type=float, default=480, help="this call ends by then")
    add("--workers", type=int, default=4, help="processes at once on each device; 0: all in this one")
    add("--devices", type=int, default=1, help="GPUs that share the parts")
    add("--part", help="only this part, in this process")
    add("--smoke", action="store_true", help="everything tiny, for a test")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """The whole call."""
    started, out = time.monotonic(), options.out
    check_devices(options.devices, options.device)
    if options.source is not None:
        unpack(options.source, out, locate(options.model))
    if options.publish is not None:
        publish(out / "results", options.publish)
        return 0
    if options.photos is not None and options.encoder is not None:
        project_photos(options.photos, options.encoder, out, device=options.device, smoke=options.smoke)
        return 0
    for name in ("images", "test", "squeezenet"):
        path = getattr(options, name)
        if path is None or not path.exists():
            raise DigitError(f"--{name} {path}: give the file")
    scale = SMOKE if options.smoke else FULL
    if options.part is not None or options.workers < 1:
        work = Run(
            options.images,
            options.test,
            options.squeezenet,
            locate(options.model),
            out,
            scale,
            torch.device(options.device),
            started + options.seconds,
        )
    if options.part is not None:
        do(options.part, work)
        return 0
    desk, results = Desk(out), options.results or out / "carried"
    if options.workers < 1:
        for part in parts(scale):
            if not desk.done(part.name):
                before = time.monotonic()
                do(part.name, work)
                desk.finish(part.name, time.monotonic() - before)
        pack(out, results)
        return 0
    left = side_by_side(
        parts(scale),
        desk,
        lambda name, seconds: _command(options, name, seconds),
        devices=options.devices,
        workers=options.workers,
        deadline=started + options.seconds - 5,
        landed=lambda name: pack(out, results),
    )
    pack(out, results)
    for name, why in left.items():
        say(f"left: {name}: {why}")
    count = len(parts(scale))
    say(f"{count - len(left)} of {count} parts are done; {results} holds what to carry away")
    return 3 if left else 0


def _command(options: argparse.Namespace, name: str, seconds: float) -> list[str]:
    command = [
        sys.executable,
        __file__,
        "--part",
        name,
        "--seconds",
        str(seconds),
        "--device",
        options.device,
    ]
    for option in ("images", "test", "squeezenet", "out", "model"):
        if getattr(options, option) is not None:
            command += [f"--{option}", str(getattr(options, option))]
    return [*command, *(["--smoke"] if options.smoke else [])]


if __name__ == "__main__":
    sys.exit(main())
