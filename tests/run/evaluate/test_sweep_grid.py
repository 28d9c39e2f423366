"""The cells that values of axes span on a model, their settings and commands."""

import pytest

from digit.errors import DigitError
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


def test_guidance_of_the_renderer_is_an_axis_where_it_knows_classes(chain, by_class):
    told = DigitPipeline.from_pretrained(by_class.root / "model")
    axes = {"guidance": [1.0, 2.0], "renderer_guidance": [1.0, 1.5]}
    for name, own in (("autoregressive", "renderer"), ("masked", "masked")):
        grid = grid_of(told, axes, renderer=name, unconditional=False)
        assert len(grid.priors) == len(grid.renderers) == 2
        setting = {**grid.priors[1], **grid.renderers[1]}
        assert grid.options(setting)["renderer_guidance"] == 1.5
        assert "--renderer-guidance 1.5" in grid.command(setting, model=None, num=2, out="x")
        assert getattr(grid.sampling(setting, told.sampling), own).guidance == 1.5
    with pytest.raises(DigitError, match=r"renderer_guidance is no setting of .*, which is told no class"):
        grid_of(told, axes, renderer=None, unconditional=True)
    plain = DigitPipeline.from_pretrained(chain.root / "model")
    assert "renderer_guidance" not in grid_of(plain, {}, renderer=None, unconditional=False).renderers[0]
    with pytest.raises(DigitError, match="which is told no class"):
        grid_of(plain, {"renderer_guidance": [1.0]}, renderer="masked", unconditional=False)
