"""Many tests here compare with torch-fidelity, which imports torchvision."""

from digit.nn.backbone import timm

timm()  # beside a CPU build of torch, torchvision cannot be imported before
