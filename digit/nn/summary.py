"""A module in one line, as `print` shows it: torch's own listing has hundreds."""

from torch import nn


def in_a_line(module: nn.Module, *facts: str) -> str:
    """Its class, the facts, how many parameters it has, and where they are."""
    parameters = [*module.parameters()]
    count = sum(each.numel() for each in parameters)
    size = f"{count / 1e6:.3g}M" if count >= 10**6 else f"{count:,}"
    device = parameters[0].device if parameters else "no device"
    return f"{type(module).__name__}({', '.join([*facts, f'{size} parameters', str(device)])})"
