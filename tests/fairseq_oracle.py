"""The decoder of DiGIT's checkpoints a second time: float64, plain functions, in the file's own names.

Written from the description of the published model, not from the package, which it is there to check.
"""

import math

import torch
from torch import Tensor

SPECIALS, END, MASK = 5, 2, 3


def random_checkpoint(facts, layout: dict, *, seed: int = 0, copies: dict[str, Tensor] | None = None) -> dict:
    """A checkpoint of these sizes with random weights that keep every layer's values near one."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in layout.items():
        if "norm.weight" in name:
            state[name] = 1 + 0.1 * torch.randn(shape, generator=generator)
        elif name.endswith("bias") or "norm" in name:
            state[name] = 0.1 * torch.randn(shape, generator=generator)
        else:
            state[name] = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
    names = {
        "prior": "stlm",
        "vq_only": "st2vtlm_vq",
        "probe": "stlm_linearprobe",
        "renderer": "st2vtlm",
        "renderer_masked": "st2vtlm_nar",
    }
    settings = {
        "_name": names[facts.kind],
        "activation_fn": "gelu",
        "decoder_embed_dim": facts.width,
        "decoder_ffn_embed_dim": 4 * facts.width,
        "decoder_layers": facts.layers,
        "decoder_attention_heads": facts.heads,
        "decoder_normalize_before": facts.norm == "pre",
        "dropout": 0.1,
        "class_conditional": facts.classes > 0,
        "pretrained_enc_config": {"pretrained_enc_arch": "dino_vit_base", "layer": 3},
    }
    return {
        "args": None,
        "cfg": {
            "model": settings,
            "task": {"input_size": 256},
            "criterion": {"label_smoothing": 0.1},
        },
        "model": state | (copies or {}),
    }


def logits(content: dict, ids: Tensor, *, positions: list[Tensor], causal: bool) -> Tensor:
    """(b, n) ids and for each the row of its position -> (b, n, V) over the output vocabulary, float64."""
    state, settings = content["model"], content["cfg"]["model"]
    width, heads = settings["decoder_embed_dim"], settings["decoder_attention_heads"]
    x = math.sqrt(width) * state["decoder.embed_tokens.weight"][ids].double() + torch.cat(positions).double()
    for i in range(settings["decoder_layers"]):
        x = _block(x, state, f"decoder.layers.{i}.", heads, causal, settings["decoder_normalize_before"])
    if settings["decoder_normalize_before"]:
        x = _norm(x, state, "decoder.layer_norm")
    return x @ state["decoder.output_projection.weight"].double().T


def rows(content: dict, count: int, table: str = "") -> Tensor:
    """The first `count` positions of one of the two tables; row 0 and the pad's row 1 are never used."""
    return content["model"][f"decoder.embed_positions{table}.weight"][2 : 2 + count]


def _block(x, state, name, heads, causal, pre):
    if pre:
        x = x + _attention(_norm(x, state, name + "self_attn_layer_norm"), state, name, heads, causal)
        return x + _feed_forward(_norm(x, state, name + "final_layer_norm"), state, name)
    x = _norm(x + _attention(x, state, name, heads, causal), state, name + "self_attn_layer_norm")
    return _norm(x + _feed_forward(x, state, name), state, name + "final_layer_norm")


def _attention(x, state, name, heads, causal):
    b, n, d = x.shape
    q, k, v = (
        _linear(x, state, f"{name}self_attn.{part}_proj").view(b, n, heads, d // heads).transpose(1, 2)
        for part in "qkv"
    )
    scores = q @ k.transpose(-1, -2) / math.sqrt(d // heads)
    if causal:
        scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -math.inf)
    scores = scores - scores.amax(-1, keepdim=True)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return _linear((weights @ v).transpose(1, 2).reshape(b, n, d), state, name + "self_attn.out_proj")


def _feed_forward(x, state, name):
    hidden = _linear(x, state, name + "fc1")
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    return _linear(hidden, state, name + "fc2")


def _linear(x, state, name):
    return x @ state[name + ".weight"].double().T + state[name + ".bias"].double()


def _norm(x, state, name):
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / scale * state[name + ".weight"].double() + state[name + ".bias"].double()
