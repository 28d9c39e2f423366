"""DiGIT's checkpoints (fairseq 0.12.2) -> prior, renderers, probe; keys as in the authors' repository.

Sizes, heads, norm placement and the vocabulary are read from the file's own settings and shapes.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from digit.errors import DigitError
from digit.nn.batch import END, MASK
from digit.nn.linear_probe import Probe, ProbeConfig
from digit.printing import listed, readable
from digit.prior import Prior, PriorConfig
from digit.renderer import Renderer, RendererConfig
from digit.renderer_masked import MaskedConfig, MaskedRenderer
from digit.weights.foreign import Layout, check_layout, without_prefix
from digit.weights.vit import read_vit
from digit.weights.vqgan_files import convert_vqgan

SPECIALS = 5  # <s>, <pad>, </s>, <unk>, <n>; code k has id 5 + k
FIRST = 2  # row of the first position in their position tables

Kind = Literal["prior", "vq_only", "probe", "renderer", "renderer_masked"]
_KINDS: dict[str, Kind] = {
    "stlm": "prior",
    "st2vtlm_vq": "vq_only",
    "stlm_linearprobe": "probe",
    "st2vtlm": "renderer",
    "st2vtlm_nar": "renderer_masked",
}

_WITH_TOKENIZER: tuple[Kind, ...] = ("prior", "probe", "renderer", "renderer_masked")
_WITH_VQGAN: tuple[Kind, ...] = ("vq_only", "renderer", "renderer_masked")
ENCODER, VQGAN_COPY = "pretrained_encoder.", "vqgan."  # how the names of copied tensors start
_PATCHES = "pretrained_encoder.patch_embed.proj.weight"

# Settings that none of the published models changes and that would make another network of the same tensors.
_EXPECTED: dict[str, Any] = {
    "activation_fn": "gelu",
    "no_scale_embedding": False,
    "share_decoder_input_output_embed": False,
    "layernorm_embedding": False,
    "no_token_positional_embeddings": False,
    "decoder_learned_pos": True,
    "adaptive_input": False,
    "character_embeddings": False,
    "adaptive_softmax_cutoff": None,
    "no_decoder_final_norm": False,
    "scale_fc": False,
    "scale_attn": False,
    "scale_heads": False,
    "scale_resids": False,
    "base_layers": 0,
    "decoder_xformers_att_config": None,
}

# Ours for theirs; query, key and value become one matrix, see `_blocks`.
BLOCK = {
    "attention.out": "self_attn.out_proj",
    "attention_norm": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_norm": "final_layer_norm",
}


@dataclass(frozen=True)
class Facts:
    """What a checkpoint's settings and shapes say about its decoder."""

    kind: Kind
    width: int
    layers: int
    heads: int
    norm: Literal["post", "pre"]
    codes: int  # K; VQ codes for a model over VQ codes only
    length: int  # codes per picture
    vq_codes: int  # 0 without a renderer
    vq_length: int
    classes: int  # rows of labels in the input table; also a probe's outputs
    positions: int  # rows of the position tables
    features: int  # channels of the encoder's features; 0 without one
    dropout: float
    label_smoothing: float


def is_checkpoint(content: Any) -> bool:
    """Whether `content` is a fairseq checkpoint."""
    return isinstance(content, dict) and isinstance(content.get("model"), dict) and "cfg" in content


def read_facts(content: Any, *, where: str) -> Facts:
    """The facts; `where` is the file that errors name.

    Raises:
        DigitError: no settings in the file, a model that is none of DiGIT's, settings that DiGIT never uses,
            or tensors that say otherwise than the settings.
    """
    settings, state = _settings(content, where), _state(content, where)
    name = settings.get("_name")
    if not isinstance(name, str) or name not in _KINDS:
        raise DigitError(
            f"{where} holds the model {readable(repr(name), 80)}, which is none of {', '.join(_KINDS)}"
        )
    for key, expected in _EXPECTED.items():
        value = settings.get(key, expected)
        if not isinstance(value, bool | int | float | str | None) or value != expected:
            raise DigitError(
                f"{where} was trained with {key} = {readable(value, 80)}, which DiGIT's models never are "
                f"({expected!r}): it cannot be converted"
            )
    kind = _KINDS[name]
    width, layers, heads, hidden = (
        _whole(settings, f"decoder_{key}", where)
        for key in ("embed_dim", "layers", "attention_heads", "ffn_embed_dim")
    )
    if layers > len(state):
        raise DigitError(f"{where} says that it has {layers:,} layers, and holds {len(state):,} tensors")
    pre = bool(settings.get("decoder_normalize_before", "decoder.layer_norm.weight" in state))
    outputs = len(_tensor(state, "decoder.output_projection.weight", where))
    inputs = len(_tensor(state, "decoder.embed_tokens.weight", where))
    positions = len(_tensor(state, "decoder.embed_positions.weight", where))
    codes = outputs - SPECIALS
    length = _length(state, content, kind, where)
    vq_codes = vq_length = 0
    if kind in ("renderer", "renderer_masked"):
        vq_codes, vq_length, codes = codes, _vq_length(state, content, where), inputs - outputs - SPECIALS
    classes = inputs - outputs if kind == "prior" else 0
    if kind == "prior" and bool(settings.get("class_conditional")) != (classes > 0):
        raise DigitError(
            f"{where} says class_conditional = {settings.get('class_conditional')} and has {classes} rows of "
            "classes: the file is damaged or was changed"
        )
    if kind == "probe":
        classes = len(_tensor(state, "linear_classifiers.classifier_0_blocks.weight", where))
    if hidden != 4 * width or min(codes, length, *([vq_length] if vq_codes else [])) < 1 or classes < 0:
        raise DigitError(
            f"{where} has {inputs} input and {outputs} output rows, width {width} and feed-forward {hidden}: "
            "these sizes make none of DiGIT's models"
        )
    if positions < FIRST + max(length, vq_length) + 1:
        raise DigitError(
            f"{where} has {positions} rows of positions, too few for {length} codes: it is damaged"
        )
    # A probe's run smooths nothing; what its prior was trained with is not in the file.
    criterion = {} if kind == "probe" else content["cfg"].get("criterion")
    return Facts(
        kind=kind,
        width=width,
        layers=layers,
        heads=heads,
        norm="pre" if pre else "post",
        codes=codes,
        length=length,
        vq_codes=vq_codes,
        vq_length=vq_length,
        classes=classes,
        positions=positions,
        features=0 if kind == "vq_only" else len(_tensor(state, _PATCHES, where)),
        dropout=_share(settings, "dropout", where),
        label_smoothing=_share(criterion, "label_smoothing", where),
    )


def input_size(content: Any, *, where: str) -> int:
    """Side in pixels of the pictures that a checkpoint was trained on; DigitError where it does not say."""
    task = content["cfg"].get("task") if isinstance(content["cfg"], dict) else None
    return _whole(task if isinstance(task, dict) else {}, "input_size", where)


def decoder_layout(facts: Facts) -> Layout:
    """Name and shape of every tensor of such a checkpoint, without its copies of encoder and VQGAN."""
    d, hidden = facts.width, 4 * facts.width
    renders = facts.kind in ("renderer", "renderer_masked")
    outputs = SPECIALS + (facts.vq_codes if renders else facts.codes)
    inputs = outputs + (SPECIALS + facts.codes if renders else facts.classes if facts.kind == "prior" else 0)
    layout: dict[str, tuple[int, ...]] = {
        "decoder.version": (1,),
        "decoder.embed_tokens.weight": (inputs, d),
        "decoder.embed_positions.weight": (facts.positions, d),
        "decoder.output_projection.weight": (outputs, d),
    }
    if renders:
        layout["decoder.embed_positions_1.weight"] = (facts.positions, d)
    if facts.norm == "pre":
        layout |= {"decoder.layer_norm.weight": (d,), "decoder.layer_norm.bias": (d,)}
    if facts.kind in _WITH_TOKENIZER:
        layout |= {"centroids": (facts.features, facts.codes), "centroid_norm": (1, facts.codes)}
    shapes = {f"self_attn.{name}_proj": (d, d) for name in ("k", "v", "q", "out")}
    shapes |= {"fc1": (hidden, d), "fc2": (d, hidden)}
    for i in range(facts.layers):
        for name, shape in shapes.items():
            layout |= {
                f"decoder.layers.{i}.{name}.weight": shape,
                f"decoder.layers.{i}.{name}.bias": shape[:1],
            }
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            layout |= {f"decoder.layers.{i}.{name}.{part}": (d,) for part in ("weight", "bias")}
    if facts.kind == "probe":
        for i in range(facts.layers):
            head = f"linear_classifiers.classifier_{i}_blocks"
            layout |= {f"{head}.weight": (facts.classes, d), f"{head}.bias": (facts.classes,)}
    return layout


def convert_checkpoint(content: Any, *, where: str) -> Prior | Renderer | MaskedRenderer | Probe:
    """The model of a checkpoint, in eval mode, float32; a linear probe's heads, see `probed_prior`.

    The copies of the tokenizer and the VQGAN that a checkpoint also holds: `digit.weights.conversion`.

    Raises:
        DigitError: see `read_facts`; or missing, unknown and wrongly shaped tensors, the first of them named.
    """
    facts, state = checked(content, where=where)
    if facts.kind == "renderer":
        return _filled(Renderer, _renderer_config(RendererConfig, facts), _renderer(facts, state))
    if facts.kind == "renderer_masked":
        return _filled(MaskedRenderer, _renderer_config(MaskedConfig, facts), _masked(facts, state))
    if facts.kind == "probe":
        return _probe(facts, state)
    return _prior(facts, state)


def probed_prior(content: Any, *, where: str) -> Prior:
    """The frozen prior inside a linear probe's checkpoint."""
    facts, state = checked(content, where=where)
    if facts.kind != "probe":
        raise DigitError(f"{where} is no linear probe: leave --part out to convert its own model")
    return _prior(facts, state)


def checked(content: Any, *, where: str) -> tuple[Facts, dict[str, Tensor]]:
    """Facts and tensors of a checkpoint whose every tensor has its place."""
    facts, state = read_facts(content, where=where), _state(content, where)
    copies = tuple(
        prefix
        for prefix, kinds in ((ENCODER, _WITH_TOKENIZER), (VQGAN_COPY, _WITH_VQGAN))
        if facts.kind in kinds
    )
    own = {name: value for name, value in state.items() if not name.startswith(copies)}
    check_layout(own, decoder_layout(facts), where=where)
    if facts.kind in _WITH_TOKENIZER:
        read_vit(without_prefix(state, ENCODER), where=f"{where}, {ENCODER}*")
    if facts.kind in _WITH_VQGAN:
        convert_vqgan(without_prefix(state, VQGAN_COPY), where=f"{where}, {VQGAN_COPY}*")
    return facts, state


def _prior(facts: Facts, state: dict[str, Tensor]) -> Prior:
    table, outputs = state["decoder.embed_tokens.weight"], SPECIALS + facts.codes
    classes = facts.classes if facts.kind == "prior" else 0
    config = PriorConfig(classes=classes, **_shape(facts))
    tensors = {
        "start_embedding.weight": torch.cat((table[outputs : outputs + classes], table[END : END + 1])),
        "code_embedding.weight": table[SPECIALS:outputs],
        "position_embedding.weight": _positions(state, "", facts.length + 1),
        "projection.weight": state["decoder.output_projection.weight"],
    }
    return _filled(Prior, config, tensors | _blocks(facts, state))


def _renderer(facts: Facts, state: dict[str, Tensor]) -> dict[str, Tensor]:
    table, outputs = state["decoder.embed_tokens.weight"], SPECIALS + facts.vq_codes
    return _blocks(facts, state) | {
        "code_embedding.weight": table[outputs + SPECIALS :],
        "position_embedding.weight": _positions(state, "_1", facts.length),
        "start_embedding.weight": table[END : END + 1],
        "vq_embedding.weight": table[SPECIALS:outputs],
        "vq_position_embedding.weight": _positions(state, "", facts.vq_length + 1),
        "projection.weight": state["decoder.output_projection.weight"],
    }


def _masked(facts: Facts, state: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors, table = _renderer(facts, state), state["decoder.embed_tokens.weight"]
    tensors["separator_embedding.weight"] = tensors.pop("start_embedding.weight")
    tensors["vq_embedding.weight"] = torch.cat((tensors["vq_embedding.weight"], table[MASK : MASK + 1]))
    return tensors


def _probe(facts: Facts, state: dict[str, Tensor]) -> Probe:
    heads = [f"linear_classifiers.classifier_{i}_blocks" for i in range(facts.layers)]
    config = ProbeConfig(width=facts.width, classes=facts.classes, layers=facts.layers, learning_rates=(1.0,))
    probe = Probe(config).requires_grad_(False)
    probe.weight.copy_(torch.stack([state[f"{head}.weight"].T for head in heads]).unsqueeze(1))
    probe.bias.copy_(torch.stack([state[f"{head}.bias"] for head in heads]).unsqueeze(1))
    return probe.requires_grad_(True).eval()


def _renderer_config(kind: type, facts: Facts) -> Any:
    return kind(vq_codes=facts.vq_codes, vq_length=facts.vq_length, **_shape(facts))


def _shape(facts: Facts) -> dict[str, Any]:
    """The settings that priors and renderers share."""
    names = ("codes", "length", "width", "layers", "heads", "norm", "dropout", "label_smoothing")
    return {name: getattr(facts, name) for name in names} | {"specials": SPECIALS}


def _blocks(facts: Facts, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformer's tensors in our names."""
    tensors = {}
    for i in range(facts.layers):
        for part in ("weight", "bias"):
            for ours, theirs in BLOCK.items():
                tensors[f"transformer.blocks.{i}.{ours}.{part}"] = state[
                    f"decoder.layers.{i}.{theirs}.{part}"
                ]
            tensors[f"transformer.blocks.{i}.attention.qkv.{part}"] = torch.cat(
                [state[f"decoder.layers.{i}.self_attn.{name}_proj.{part}"] for name in ("q", "k", "v")]
            )
    if facts.norm == "pre":
        for part in ("weight", "bias"):
            tensors[f"transformer.norm.{part}"] = state[f"decoder.layer_norm.{part}"]
    return tensors


def _positions(state: dict[str, Tensor], table: str, count: int) -> Tensor:
    return state[f"decoder.embed_positions{table}.weight"][FIRST : FIRST + count]


def _filled(kind: type, config: Any, tensors: dict[str, Tensor]) -> Any:
    """A module of these tensors, without drawing random ones first."""
    with torch.device("meta"):
        module: nn.Module = kind(config)
    module.load_state_dict({name: value.float().clone() for name, value in tensors.items()}, assign=True)
    return module.eval()


def _length(state: dict[str, Tensor], content: Any, kind: Kind, where: str) -> int:
    """Codes per picture: patches of the encoder at 224 px, or VQ codes at the input size."""
    if kind == "vq_only":
        return _vq_length(state, content, where)
    patch = _tensor(state, _PATCHES, where).shape[-1]
    return (224 // patch) ** 2


def _vq_length(state: dict[str, Tensor], content: Any, where: str) -> int:
    """The input size over the VQGAN's downsampling: each of its levels but one halves the side."""
    size = input_size(content, where=where)
    levels = {name.split(".")[3] for name in state if name.startswith("vqgan.encoder.down.")}
    if not levels:
        raise DigitError(f"{where} holds no vqgan.encoder.down tensors: it is not a whole checkpoint")
    return (size >> len(levels) - 1) ** 2


def _settings(content: Any, where: str) -> dict[str, Any]:
    if not is_checkpoint(content):
        raise DigitError(f"{where} is no fairseq checkpoint: it has no cfg and model")
    cfg = content["cfg"]
    settings = cfg.get("model") if isinstance(cfg, dict) else None
    if not isinstance(settings, dict):
        raise DigitError(
            f"{where} holds no settings (cfg.model), so heads and norms are unknown: get the whole checkpoint"
        )
    return settings


def _state(content: Any, where: str) -> dict[str, Tensor]:
    state = content["model"]
    strangers = [
        name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if strangers:
        raise DigitError(f"{where} holds values that are no tensors: {listed(strangers)}")
    return state


def _tensor(state: dict[str, Tensor], name: str, where: str) -> Tensor:
    if name not in state or state[name].ndim < 2:
        raise DigitError(f"{where} lacks the matrix {name}: it is not a whole checkpoint of DiGIT")
    return state[name]


def _share(settings: Any, key: str, where: str) -> float:
    """What a checkpoint says of training alone; fairseq's 0.1 where it says nothing."""
    value = settings.get(key, 0.1) if isinstance(settings, dict) else 0.1
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise DigitError(f"{where} says that its {key} is {readable(value, 80)}: get the whole checkpoint")
    return float(value)


def _whole(settings: dict[str, Any], key: str, where: str) -> int:
    value = settings.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise DigitError(
            f"{where} does not say its {key} (it has {readable(value, 80)}): get the whole checkpoint"
        )
    return value
