"""The cells that values of axes span on a model, their settings and commands."""

from digit.pipeline import DigitPipeline
from digit.run.evaluate.sweep_grid import grid_of


def test_vq_only_and_unconditional_grids(chain):
    from digit.weights.artifact import load

    prior, vqgan = load(chain.root / "prior_vq"), load(chain.root / "vqgan")
    grid = grid_of(DigitPipeline(prior, vqgan), {"top_k": [1, 2]}, renderer=None, unconditional=False)
    assert grid.renderers == [{}] and len(grid.priors) == 2 and grid.classes == 0
    words = grid.command(grid.priors[1], model="m", num=4, out="o").split()
    assert "--unconditional" in words and "--guidance" not in words
    model = DigitPipeline.from_pretrained(chain.root / "model")
    grid = grid_of(model, {"top_p": [0.5]}, renderer=None, unconditional=True)
    changed = grid.sampling({**grid.priors[0], **grid.renderers[0]}, model.sampling)
    assert changed.prior_unconditional.top_p == 0.5 and changed.prior == model.sampling.prior
