"""Which share of a picture's codes come back when what a renderer made of them is tokenised again.

    python bench/codes_back.py --images cifar10-test.zip [--model FOLDER] [--num 1000] \
        [--out bench/results/codes-back.json] [--smoke]

Pictures evenly out of the set, through each renderer of a model and through its VQGAN alone, by the functions
of `digit evaluate reconstruction` and with its protocol; without the networks that measure distances there.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from digit.data.images import open_images
from digit.data.loader import stream
from digit.evaluation import codes_back
from digit.files import write_json_atomic
from digit.nn.sampling import DRAW
from digit.pipeline import DigitPipeline
from digit.run.evaluate import completions, measurement
from digit.run.table import print_table

PHOTOS = Path(__file__).parents[1] / "docs" / "images" / "photos"
BATCH = 50


def main() -> None:
    """Render, tokenise again, count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, default=PHOTOS, help="folder, zip or tar shards")
    parser.add_argument("--model", help="a model; the bundled one if left out")
    parser.add_argument("--num", type=int, default=1000, help="pictures at most")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--smoke", action="store_true", help="two pictures by the autoregressive renderer")
    options = parser.parse_args()
    pipeline = DigitPipeline.from_pretrained(options.model)
    source = open_images(options.images).spread(2 if options.smoke else options.num)
    names = pipeline.renderers[:1] if options.smoke else pipeline.renderers
    rows: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    for name in names:
        settings = completions.renderer_settings(pipeline, name)
        ways = completions.ways_back(pipeline, settings)
        side, begun = pipeline.image_size, time.perf_counter()
        batches = stream(source, side, batch_size=BATCH, strict=True)
        pictures = (views[:, 0].float() / 255 for _, views in batches)
        found, _ = completions.reconstruct(pictures, ways, [], tokenise=pipeline.encode)
        seconds[name] = round(time.perf_counter() - begun, 1)
        for way in ways:
            rows[completions.VQ if way == completions.VQ else name] = found[way]
    columns = (completions.BACK, "PSNR")
    print_table(
        f"{len(source)} pictures of {source.path.name} by {pipeline!r}",
        ["codes back", "PSNR, dB"],
        {name: [row[column] for column in columns] for name, row in rows.items()},
    )
    if options.out:
        result: dict[str, Any] = {
            "measurement": "codes that come back",
            "protocol": codes_back.PROTOCOL,
            "command": f"python bench/codes_back.py --images {source.path.name} --num {len(source)}",
            "model": measurement.ids_of(pipeline),
            "settings": {name: completions.renderer_settings(pipeline, name) for name in names},
            "draw": DRAW,
            "pictures": len(source),
            "device": "cpu",
            "torch": torch.__version__,
            "seconds": seconds,
            "rows": rows,
        }
        write_json_atomic(options.out, result)


if __name__ == "__main__":
    main()
