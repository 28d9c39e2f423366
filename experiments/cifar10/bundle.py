"""The bundled model: the chain of experiments/cifar10.sh with its best measured settings, stored in 8 bits.

    python experiments/cifar10/bundle.py --runs runs/cifar10 --result bench/results/cifar10.json \
        --out digit/models/cifar10
"""

import argparse
from pathlib import Path
from typing import Any

from digit.files import read_json
from digit.nn.sampling import SamplerConfig
from digit.pipeline import DigitPipeline
from digit.weights.artifact import artifact_of, load
from digit.weights.model_folder import PipelineSampling

FIELDS = ("temperature", "top_p", "top_k")


def main() -> None:
    """Compose and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    systems = read_json(options.result)["systems"]

    def setting(system: str, kind: str) -> dict[str, float]:
        return systems[system][kind]["setting"]

    def plain(values: dict[str, float]) -> SamplerConfig:
        return SamplerConfig(**{name: values[name] for name in FIELDS if name in values})

    with_labels, without = setting("digit", "conditional"), setting("digit", "unconditional")
    sampling = PipelineSampling(
        prior=SamplerConfig(**with_labels),
        prior_unconditional=plain(without),
        renderer=plain(with_labels),
        masked=plain(setting("digit_masked", "conditional")),
    )
    parts: dict[str, Any] = {
        name: load(options.runs / name)
        for name in ("prior", "vqgan", "renderer", "renderer_masked", "tokenizer")
    }
    classes = artifact_of(parts["prior"])["classes"]
    pipeline = DigitPipeline(
        parts.pop("prior"), parts.pop("vqgan"), **parts, classes=classes, sampling=sampling
    )
    pipeline.save_pretrained(options.out, stored_as="int8")
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
