"""A tokenizer of one's own: `--tokenizer experiments/own_tokenizer.py:Colours`, as docs/own-parts.md shows.

The mean colour of each of 8 x 8 patches, rounded to four levels of red, green and blue: 64 codes. It costs
nothing to fit, keeps colours and no shapes, and has all that measurements look for.
"""

import torch
import torch.nn.functional as F


class Colours:
    """Pixels (b, 3, h, w) in [0, 1] -> codes (b, 64) from 0 to 63."""

    codes, size = 64, 32  # of the codebook; side in pixels at which pictures are read
    levels, grid = 4, 8

    def features(self, pixels):
        """What is quantised: mean colours (b, 64, 3) of patches in raster order."""
        return F.adaptive_avg_pool2d(pixels, self.grid).flatten(2).transpose(1, 2)

    def nearest(self, features):
        """The codes (b, 64) of mean colours."""
        red, green, blue = (features * self.levels).long().clamp(0, self.levels - 1).unbind(-1)
        return (red * self.levels + green) * self.levels + blue

    def encode(self, pixels):
        """The codes (b, 64) of pictures."""
        return self.nearest(self.features(pixels))

    def vectors(self, codes):
        """The colours (b, 64, 3) that codes stand for."""
        levels = codes // self.levels**2, codes // self.levels % self.levels, codes % self.levels
        return (torch.stack(levels, -1) + 0.5) / self.levels

    def decode(self, codes):
        """Pictures (b, 3, 32, 32) of flat patches."""
        colours = self.vectors(codes).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return F.interpolate(colours, size=self.size)
