"""A tiny chain, trained once a test session by what is behind the command line; a quicker interpreter.

The suite means the same on every machine: it sees no GPU, nor do the processes that it starts, and Triton's
interpreter runs the kernels. What only a GPU can show is in tests_gpu.
"""

import functools
import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}  # read when these are imported

import pytest
import torch
from safetensors.torch import save_file
from tests_support import make_pictures

os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each, and for what they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True, scope="session")
def quick_interpreter():
    """Triton's interpreter without what took most of its time.

    It makes a table of NumPy's types anew for each operation. And Python's stack grows in chunks of 16 kB: at
    the end of one, each call maps the next and each return unmaps it. A frame with room for thousands of
    variables gets a chunk in which all that it calls fits.
    """
    if importlib.util.find_spec("triton") is None:
        return
    from triton.runtime import interpreter

    whole, of_number = interpreter._get_np_dtype, functools.cache(interpreter._get_np_dtype)
    interpreter._get_np_dtype = lambda kind: whole(kind) if kind.scalar.is_ptr() else of_number(kind.scalar)
    patch = interpreter._patch_lang_tensor

    def with_index(tensor: Any, scope: Any) -> None:
        """Before Triton 3.7 it converts arrays of one number in a way that NumPy gave up."""
        patch(tensor, scope)
        tensor.__index__ = lambda self: self.handle.data.item()

    interpreter._patch_lang_tensor = with_index
    variables = " = ".join(f"v{number}" for number in range(20_000))
    made: dict[str, Any] = {}
    exec(f"def roomy(*a, **k):\n    if a is None: {variables} = 0\n    return launch(*a, **k)", made)
    made["launch"] = interpreter.GridExecutor.__call__
    interpreter.GridExecutor.__call__ = made["roomy"]


ENCODER = {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}


@pytest.fixture(scope="session")
def chain(tmp_path_factory) -> SimpleNamespace:
    """Pictures, tokenizer, VQGAN, codes, priors, renderers and the model composed of them."""
    from digit.nn.backbone import timm
    from digit.run.compose import compose
    from digit.run.fit import fit
    from digit.run.tokenize import tokenize
    from digit.run.train.prior import train_prior
    from digit.run.train.renderer import train_renderer
    from digit.run.train.vqgan import train_vqgan
    from digit.training.config import OptimizerConfig, TrainConfig
    from digit.vqgan_config import VQGANConfig, VQGANLossConfig

    root = tmp_path_factory.mktemp("chain")
    images = str(make_pictures(root / "pictures.zip"))
    torch.manual_seed(0)
    vit = timm().create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **ENCODER)
    save_file(vit.state_dict(), root / "encoder.safetensors")
    fitted = {"encoder": "vit_tiny_patch16_224", "encoder_weights": root / "encoder.safetensors"}
    fitted |= {"encoder_arguments": ENCODER, "encoder_size": 16, "clusters": 8, "per_cluster": 64}
    fit(images, root / "tokenizer", **fitted, iterations=5, device="cpu")
    short = TrainConfig(steps=3, batch=8, log_every=1, optimizer=OptimizerConfig(warmup=1))
    shape = VQGANConfig(image_size=16, width=8, multipliers=(1, 1, 2), blocks=1, codes=16, code_dim=4)
    losses = VQGANLossConfig(perceptual=None)
    train_vqgan(images, root / "vqgan", model=shape, losses=losses, training=short, device="cpu")
    tokenize(images, root / "codes", tokenizer=root / "tokenizer", vqgan=root / "vqgan", device="cpu")
    small = {"width": 16, "layers": 1, "heads": 2, "training": short, "device": "cpu"}
    train_prior(root / "codes", root / "prior", label_dropout=0.5, held_out=root / "codes", **small)
    train_prior(root / "codes", root / "prior_vq", over="vq_codes", conditional=False, **small)
    train_renderer(root / "codes", root / "renderer", held_out=root / "codes", vqgan=root / "vqgan", **small)
    train_renderer(root / "codes", root / "masked", masked=True, **small)
    renderers = {"renderer": root / "renderer", "renderer_masked": root / "masked"}
    parts = {"vqgan": root / "vqgan", "tokenizer": root / "tokenizer", **renderers}
    compose(root / "prior", root / "model", **parts)
    return SimpleNamespace(root=root, images=images, short=short, small=small, fitted=fitted)


@pytest.fixture(scope="session")
def by_class(chain) -> SimpleNamespace:
    """The chain with renderers that are told the class and may be guided."""
    from digit.run.compose import compose
    from digit.run.train.renderer import train_renderer

    codes, root, told = chain.root / "codes", chain.root / "by-class", {"label_dropout": 0.5, **chain.small}
    train_renderer(codes, root / "renderer", held_out=codes, vqgan=chain.root / "vqgan", **told)
    train_renderer(codes, root / "masked", masked=True, **told)
    renderers = {"renderer": root / "renderer", "renderer_masked": root / "masked"}
    parts = {"vqgan": chain.root / "vqgan", "tokenizer": chain.root / "tokenizer", **renderers}
    compose(chain.root / "prior", root / "model", **parts)
    return SimpleNamespace(root=root)


@pytest.fixture(scope="session")
def flow(chain, tmp_path_factory) -> SimpleNamespace:
    """A flow renderer of the chain's codes, a model of it without a VQGAN, and one that has all renderers."""
    from digit.run.compose import compose
    from digit.run.train.renderer import train_renderer

    root = tmp_path_factory.mktemp("flow")
    codes, how = chain.root / "codes", {"images": chain.images, **chain.small}
    train_renderer(codes, root / "renderer", flow=True, **how)
    parts = {"tokenizer": chain.root / "tokenizer", "renderer_flow": root / "renderer"}
    compose(chain.root / "prior", root / "model", **parts)
    parts |= {"renderer": chain.root / "renderer", "renderer_masked": chain.root / "masked"}
    compose(chain.root / "prior", root / "all", vqgan=chain.root / "vqgan", **parts)
    return SimpleNamespace(root=root, model=root / "model", all=root / "all")


@pytest.fixture
def run(capsys):
    """Run one command line; gives (exit code, standard output, standard error)."""
    from digit.run.main import run as run_command

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def saved_in():
    """The names of the files that a command said it saved; each must be there."""

    def names(printed: str) -> list[str]:
        paths = [Path(line[7:]) for line in printed.splitlines() if line.startswith("saved: ")]
        assert all(path.is_file() for path in paths), paths
        return [path.name for path in paths]

    return names


@pytest.fixture
def json_of():
    """Parse a command's standard output."""
    return json.loads
