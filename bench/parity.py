"""How near the imported models come to the authors' code, on the golden values in tests/fixtures.

    python bench/parity.py [--out bench/results/parity.json] [--smoke]

Largest absolute differences in float32 on a CPU, each beside what the golden values' manifest allows, and how
far torch's AdamW parts from fairseq's Adam in five updates. The tests make the same comparisons.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from digit.evaluation.probe import pooled_states
from digit.files import write_json_atomic
from digit.nn.batch import CodeBatch
from digit.nn.sampling import SamplerConfig
from digit.prior import Prior
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.update import Updater
from digit.weights.conversion import tokenizer_copy, vqgan_copy
from digit.weights.fairseq import convert_checkpoint, probed_prior
from digit.weights.foreign import read

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--smoke", action="store_true", help="leave out the decoding of 256 codes")
    options = parser.parse_args()
    torch.manual_seed(0)
    tolerances = json.loads((FIXTURES / "manifest.json").read_text())["tolerances"]
    rows = {**_decoders(tolerances), **_tokenizer(tolerances), **_vqgan(tolerances)}
    if not options.smoke:
        rows |= _greedy()
    optimizer = {name: _five_updates(name) for name in ("reference", "corrected")}
    result = {"torch": torch.__version__, "device": "cpu", "largest_difference": rows, "optimizer": optimizer}
    _print(rows, optimizer)
    if options.out:
        write_json_atomic(options.out, result)


def _row(ours: torch.Tensor, theirs: torch.Tensor, allowed: float) -> dict[str, float]:
    return {"difference": (ours.double() - theirs.double()).abs().max().item(), "allowed": allowed}


def _codes(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, float]:
    return {"difference": (ours != theirs).sum().item(), "allowed": 0, "of": theirs.numel()}


def _open(name: str) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    content = read(FIXTURES / f"{name}.pt")
    return content, convert_checkpoint(content, where=name), load_file(FIXTURES / f"{name}.safetensors")


@torch.no_grad()
def _decoders(tolerances: dict[str, Any]) -> dict[str, dict[str, float]]:
    rows, logits, losses = {}, tolerances["logits"]["atol"], tolerances["losses"]["atol"]
    for name in ("stage1_uncond", "stage1_cls", "vq_only", "stage2_ar", "stage2_nar"):
        _, module, golden = _open(name)
        codes = golden.get("codes", golden.get("disc_codes", golden.get("vq_codes")))
        if name == "stage2_nar":
            masked = golden["mask"][:, 1:]
            ours = module.vocabulary_logits(codes, golden["vq_codes"].masked_fill(masked, module.mask))
            loss = module.masked_loss(codes, golden["vq_codes"], masked)
        elif name == "stage2_ar":
            ours = module.vocabulary_logits(codes, golden["vq_codes"])
            loss = module.loss(CodeBatch(codes, None, golden["vq_codes"]))
        else:
            ours = module.vocabulary_logits(codes, golden.get("class_ids"))
            loss = module.loss(CodeBatch(codes, golden.get("class_ids")))
        rows[f"{name}: logits"] = _row(ours, golden["logits"], logits)
        rows[f"{name}: loss"] = _row(loss, golden["loss"], losses)
    content, probe, golden = _open("linear_probe")
    pooled = pooled_states(probed_prior(content, where="linear_probe"), golden["codes"])
    rows["linear_probe: pooled states"] = _row(
        pooled.transpose(0, 1), golden["pooled_states"], tolerances["inner_states"]["atol"]
    )
    heads = torch.stack([golden[f"logits.classifier_{i}_blocks"] for i in range(2)], 1)
    ours = probe.logits(pooled[:, :2]).squeeze(2)
    rows["linear_probe: logits"] = _row(ours, heads, tolerances["probe_logits"]["atol"])
    return rows


@torch.no_grad()
def _tokenizer(tolerances: dict[str, Any]) -> dict[str, dict[str, float]]:
    golden = load_file(FIXTURES / "tokenizer.safetensors")
    content = read(FIXTURES / "stage1_uncond.pt")
    tokenizer = tokenizer_copy(content, where="stage1_uncond", encoder_heads=3)
    pixels = golden["images_u8"].float() / 255
    return {
        "tokenizer: features": _row(
            tokenizer.features(pixels), golden["features"], tolerances["features"]["atol"]
        ),
        "tokenizer: codes": _codes(tokenizer.encode(pixels), golden["ids_ckpt"]),
    }


@torch.no_grad()
def _vqgan(tolerances: dict[str, Any]) -> dict[str, dict[str, float]]:
    golden, vqgan = (
        load_file(FIXTURES / "vqgan.safetensors"),
        vqgan_copy(read(FIXTURES / "vq_only.pt"), where=""),
    )
    pixels = golden["image_u8"].float() / 255
    vectors = vqgan.quantize.vectors(golden["ids"]).transpose(1, 2).unflatten(2, (16, 16))
    return {
        "VQGAN: latents": _row(vqgan.latents(pixels), golden["prequant"], tolerances["prequant"]["atol"]),
        "VQGAN: codes": _codes(vqgan.encode(pixels), golden["ids"]),
        "VQGAN: pixels": _row(vqgan.decode_latents(vectors), golden["recon"], tolerances["recon"]["atol"]),
    }


def _greedy() -> dict[str, dict[str, float]]:
    golden, greedy = load_file(FIXTURES / "generation.safetensors"), SamplerConfig(temperature=0.0)
    prior, by_class, renderer = (_open(name)[1] for name in ("stage1_uncond", "stage1_cls", "stage2_ar"))
    labels, codes = golden["stage1_cls_class_ids"], golden["stage2_ar_disc_codes"]
    return {
        "stage1_uncond: greedy": _codes(prior.sample([0], config=greedy), golden["stage1_uncond_codes"]),
        "stage1_cls: greedy": _codes(by_class.sample([0, 1], labels, greedy), golden["stage1_cls_codes"]),
        "stage2_ar: greedy": _codes(renderer.sample(codes, [0, 1], greedy), golden["stage2_ar_vq_codes"]),
    }


def _five_updates(epsilon: Any) -> dict[str, float]:
    """Largest difference of loss and weights from fairseq's Adam, over its five updates of a fixed batch."""
    steps = json.loads((FIXTURES / "schedules_and_optimizer.json").read_text())["optimizer_steps"]
    hyper = steps["hyper"]
    _, module, golden = _open("stage1_uncond")
    prior = Prior(replace(module.config, dropout=0.0))
    prior.load_state_dict(module.state_dict())
    optimizer = OptimizerConfig(
        lr=hyper["lr"],
        betas=tuple(hyper["betas"]),
        eps=hyper["eps"],
        weight_decay=hyper["weight_decay"],
        warmup=hyper["warmup_updates"],
        warmup_from=hyper["warmup_init_lr"],
        epsilon=epsilon,
    )
    config = TrainConfig(steps=100, batch=2, clip=hyper["clip_norm"], optimizer=optimizer)
    updater, batch = Updater(prior, config, torch.device("cpu")), CodeBatch(golden["codes"])
    for _ in range(5):
        updater.update(batch)
    updater.read_losses("")
    prior.eval()
    with torch.no_grad():
        losses = torch.tensor([*updater.losses, prior.loss(batch).item()])
    theirs, state = load_file(FIXTURES / "optimizer_final_weights.safetensors"), prior.state_dict()
    pairs = [
        (state["code_embedding.weight"], theirs["decoder.embed_tokens.weight"][5:]),
        (state["position_embedding.weight"], theirs["decoder.embed_positions.weight[0:264]"][2:259]),
        (state["projection.weight"], theirs["decoder.output_projection.weight"]),
    ]
    names = {"mlp.0.bias": "fc1.bias", "mlp.2.bias": "fc2.bias", "mlp_norm.weight": "final_layer_norm.weight"}
    names |= {
        "attention_norm.weight": "self_attn_layer_norm.weight",
        "mlp_norm.bias": "final_layer_norm.bias",
    }
    for i in range(module.config.layers):
        pairs += [
            (state[f"transformer.blocks.{i}.{ours}"], theirs[f"decoder.layers.{i}.{name}"])
            for ours, name in names.items()
        ]
    return {
        "loss": (losses - torch.tensor([*steps["loss"], steps["loss_after"]])).abs().max().item(),
        "weights": max((ours - reference).abs().max().item() for ours, reference in pairs),
    }


def _print(rows: dict[str, dict[str, float]], optimizer: dict[str, dict[str, float]]) -> None:
    table = Table("compared", "largest difference", "allowed")
    for name, row in rows.items():
        shown = f"{row['difference']} of {row['of']} differ" if "of" in row else f"{row['difference']:.1e}"
        table.add_row(name, shown, f"{row['allowed']:g}")
    for name, row in optimizer.items():
        table.add_row(
            f"five updates, epsilon {name}", f"loss {row['loss']:.1e}, weights {row['weights']:.1e}", ""
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
