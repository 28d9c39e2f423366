"""What numbers may be: written once into their annotations, read by the command line and by dataclasses."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, get_args

MANY = 2**31 - 1


@dataclass(frozen=True)
class Bounds:
    """The lowest and highest value of a number; NaN and infinity are never meant."""

    low: int | float
    high: int | float
    above: bool = False  # low itself is refused
    below: bool = False  # high itself is

    def __contains__(self, value: int | float) -> bool:
        """Whether a number may be this."""
        if not math.isfinite(value):
            return False
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def refusal(self, value: int | float) -> str | None:
        """What to say to a value out of bounds: what it is and what to give."""
        if value in self:
            return None
        what = "a whole number" if isinstance(value, int) else "a number"
        low, high = (f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (self.low, self.high))
        given = f"{value:.6g}" if isinstance(value, float) or abs(value) > 10**20 else value
        start = f"above {low} and" if self.above else f"from {low}"
        return f"{given} is out of bounds: give {what} {start} {'below' if self.below else 'up to'} {high}"


Count = Annotated[int, Bounds(1, MANY)]
Whole = Annotated[int, Bounds(0, MANY)]
Seed = Annotated[int, Bounds(0, 2**63 - 1)]
Side = Annotated[int, Bounds(1, 2**14)]  # pixels
Batch = Annotated[int, Bounds(1, 2**24)]  # samples at once
Codebook = Annotated[int, Bounds(1, 2**16)]  # codes, which are stored in 16 bits
Size = Annotated[int, Bounds(1, 2**16)]  # of a network: channels, heads
Depth = Annotated[int, Bounds(1, 1024)]  # layers or blocks
Several = Annotated[int, Bounds(2, 10**7)]  # pictures of which a distance can be measured
Draws = Annotated[int, Bounds(1, 10**7)]  # pictures of one command
Share = Annotated[float, Bounds(0, 1)]
Decay = Annotated[float, Bounds(0, 1, below=True)]  # also a share of which 1 would leave nothing
Weight = Annotated[float, Bounds(0, 10**9)]  # of a term
Positive = Annotated[float, Bounds(0, 10**9, above=True)]
Temperature = Annotated[float, Bounds(0, 1000)]
TopP = Annotated[float, Bounds(0, 1, above=True)]
Guidance = Annotated[float, Bounds(0, 1000)]


def bounds_of(annotation: Any) -> Bounds | None:
    """The bounds in an annotation: of the number itself, of each of a tuple, or of one that may be None."""
    if isinstance(annotation, Bounds):
        return annotation
    parts = (*get_args(annotation), *getattr(annotation, "__metadata__", ()))
    return next((found for part in parts if (found := bounds_of(part)) is not None), None)
