"""Building blocks that more than one stage uses: transformer, sampling, backbones, batches."""
