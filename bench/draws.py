"""How many codes change where logits move by bfloat16's rounding: the draw, beside the inverse it replaced.

    python bench/draws.py [--num N] [--out F] [--smoke]

The bundled prior reads codes that it drew; at each position a code is drawn from its logits in float32 and
from the same rounded to bfloat16 before guidance, each time with the same noise. The rival is the inverse of
the cumulative distribution in order of the codes, with one number per position. Where both keep the codes of
float32, nothing changes by the edge of top-p. On the CPU.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from machine import heading, parser
from rich.console import Console
from rich.table import Table
from torch import Tensor

from digit.files import write_json_atomic
from digit.nn.noise import keys
from digit.nn.sampling import DRAW, SamplerConfig, draw, filter_logits
from digit.prior import Prior
from digit.weights.model_folder import locate, open_model

Rule = Callable[[Float[Tensor, "b n v"], SamplerConfig], Int[Tensor, "b n"]]
FIXED, INVERSE = f"{DRAW}, kept codes of float32", "inverse"
CASES = {
    "by class, guidance 2, top-p 0.9": SamplerConfig(guidance=2.0, top_p=0.9),
    "by class, guidance 2": SamplerConfig(guidance=2.0),
    "no class, top-p 0.9": SamplerConfig(top_p=0.9),
    "no class": SamplerConfig(),
}


def rules(num: int, length: int) -> dict[str, Rule]:
    """The draw and its rival, for `num` seeds."""
    own, places = keys(range(num), stage="prior").unsqueeze(1), torch.arange(length)
    numbers = torch.rand(num, length, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def inverse(logits: Tensor, config: SamplerConfig) -> Tensor:
        mass = filter_logits(logits.float(), config).softmax(-1).double().cumsum(-1)
        return (mass <= numbers * mass[..., -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)

    def largest(logits: Tensor, config: SamplerConfig) -> Tensor:
        return draw(logits, own, places, config)

    return {DRAW: largest, FIXED: largest, INVERSE: inverse}


@torch.inference_mode()
def changes(prior: Prior, config: SamplerConfig, num: int) -> dict[str, dict[str, float]]:
    """By rule, the shares of codes that change, and of pictures in which one does."""
    labels = torch.arange(num) % prior.config.classes if config.guidance != 1 else None
    codes = prior.sample(range(num), labels, config)
    logits = prior.logits(codes, labels)
    null = logits if labels is None else prior.logits(codes)

    def guided(dtype: torch.dtype) -> Tensor:
        here, there = logits.to(dtype).float(), null.to(dtype).float()
        return there + config.guidance * (here - there)

    exact, rounded, found = guided(torch.float32), guided(torch.bfloat16), {}
    gone = ~filter_logits(exact, config).isfinite()
    fixed = [each.masked_fill(gone, float("-inf")) for each in (exact, rounded)]
    unfiltered = replace(config, top_p=1.0)
    for name, rule in rules(num, codes.shape[1]).items():
        (before, after), how = (fixed, unfiltered) if name == FIXED else ((exact, rounded), config)
        changed = (rule(before, how) != rule(after, how)).float()
        found[name] = {"codes": changed.mean().item(), "pictures": changed.amax(1).mean().item()}
    return found


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--num", type=int, default=512, help="pictures of each row")
    given = options.parse_args()
    num = 2 if given.smoke else given.num
    prior = open_model(locate(None), parts=()).parts["prior"].eval()
    rows = {name: changes(prior, config, num) for name, config in CASES.items()}
    result = {
        **heading("codes that change where logits are rounded to bfloat16", torch.device("cpu")),
        "pictures": num,
        "rows": rows,
    }
    about = "\n".join(str(result[name]) for name in ("measurement", "command", "commit", "date", "device"))
    table = Table(title=about)
    for column in ("share that changes", *rows["no class"]):
        table.add_column(column)
    for name, row in rows.items():
        cells = (f"{each['codes']:.2%} of codes\n{each['pictures']:.0%} of pictures" for each in row.values())
        table.add_row(name, *cells)
    Console(width=130).print(table)
    if given.out:
        write_json_atomic(given.out, result)


if __name__ == "__main__":
    main()
