import math
from dataclasses import replace

import pytest
import torch

from digit import renderer_flow
from digit.data.codes import Codes
from digit.data.images import open_images
from digit.data.views import ViewData
from digit.errors import DigitError
from digit.nn.batch import ViewBatch
from digit.renderer_flow import LEAST, FlowConfig, FlowRenderer, flow
from digit.training.loop import train
from digit.weights.artifact import load, save

SHAPE = {"codes": 5, "length": 4, "image_size": 8, "patch": 2, "width": 16, "layers": 2, "heads": 2}


def settled(**changes):
    """A small renderer with weights away from their start."""
    torch.manual_seed(0)
    renderer = FlowRenderer(FlowConfig(**{**SHAPE, "classes": 3, **changes}))
    with torch.no_grad():
        for weight in renderer.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return renderer.eval()


def given(count=2, renderer=None):
    codes, labels = torch.randint(5, (count, 4)), torch.randint(3, (count,))
    return torch.randn(count, 3, 8, 8), torch.rand(count), codes, labels


def test_a_new_renderer_predicts_grey():
    assert not FlowRenderer(FlowConfig(**SHAPE, classes=3))(*given()).any()


def test_patches_return_to_where_they_came_from():
    """Without attention, whose gates begin shut, an output depends on its own patch and code alone."""
    torch.manual_seed(0)
    renderer = FlowRenderer(FlowConfig(**SHAPE, classes=3))
    torch.nn.init.normal_(renderer.projection.weight)
    noisy, times, codes, labels = given(1)
    before, moved = renderer(noisy, times, codes, labels), noisy.clone()
    moved[0, 1, 5, 2] += 1  # in patch (2, 1)
    changed = (renderer(moved, times, codes, labels) != before)[0].any(0)
    assert changed[4:6, 2:4].all() and changed.sum() == 4
    other = codes.clone()
    other[0, 1] = (other[0, 1] + 1) % 5  # above on the right: 2 x 2 patches
    changed = (renderer(noisy, times, other, labels) != before)[0].any(0)
    assert changed[:4, 4:].all() and changed.sum() == 16


def test_loss_is_the_error_of_velocity(monkeypatch):
    """Which is (clean - noise) of a path from noise to clean; near the picture it is weighted no further."""
    renderer, seen = settled(), {}
    batch = ViewBatch(torch.rand(512, 3, 8, 8), torch.randint(5, (512, 4)), torch.randint(3, (512,)))

    def forward(noisy, times, codes, labels, guidance=None):
        seen.update(noisy=noisy, times=times, codes=codes, labels=labels)
        return 2 * batch.pixels - 1 + 0.1

    monkeypatch.setattr(renderer, "forward", forward)
    loss, times = renderer.loss(batch), seen["times"].view(-1, 1, 1, 1)
    clean = 2 * batch.pixels - 1
    noise = (seen["noisy"] - times * clean) / (1 - times)
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    velocity = clean - noise
    found = (clean + 0.1 - seen["noisy"]) / (1 - times).clamp(min=LEAST)
    far = times.flatten() < 1 - LEAST
    error = (found - velocity).square().flatten(1).mean(1)
    torch.testing.assert_close(error[far], (0.01 / (1 - seen["times"]) ** 2)[far], atol=1e-3, rtol=1e-3)
    wanted = (0.01 / (1 - seen["times"]).clamp(min=LEAST) ** 2).mean()
    torch.testing.assert_close(loss, wanted)
    unusual = torch.logit(seen["times"])
    assert abs(unusual.mean() + 0.4) < 0.15 and abs(unusual.std() - 1) < 0.1


def test_codes_and_classes_are_left_out_together_and_classes_alone(monkeypatch):
    renderer, seen = settled(code_dropout=0.2, label_dropout=0.3), {}

    def forward(noisy, times, codes, labels, guidance=None):
        seen.update(codes=codes, labels=labels)
        return noisy

    monkeypatch.setattr(renderer, "forward", forward)
    labels = torch.randint(3, (4000,))
    renderer.loss(ViewBatch(torch.rand(4000, 3, 8, 8), torch.randint(5, (4000, 4)), labels))
    no_codes, no_label = (seen["codes"] == 5).all(1), seen["labels"] == 3
    assert torch.equal((seen["codes"] == 5).any(1), no_codes) and no_label[no_codes].all()
    assert abs(no_codes.float().mean() - 0.2) < 0.03 and abs(no_label.float().mean() - 0.5) < 0.03
    renderer.loss(ViewBatch(torch.rand(10, 3, 8, 8), torch.randint(5, (10, 4)), torch.full((10,), -1)))
    assert (seen["labels"] == 3).all()
    renderer.loss(ViewBatch(torch.rand(10, 3, 8, 8), torch.randint(5, (10, 4))))
    assert (seen["labels"] == 3).all()


def test_the_solver_is_of_second_order(monkeypatch):
    """On pictures of independent normal values, for which prediction and flow are known."""
    renderer, spread = settled(guidance=1.0), 0.25

    def forward(noisy, times, codes, labels, guidance=None):
        t = times.view(-1, 1, 1, 1)
        return t * spread**2 * noisy / (t**2 * spread**2 + (1 - t) ** 2)

    monkeypatch.setattr(renderer, "forward", forward)
    noise = torch.randn(4, 3, 8, 8)
    codes, labels = torch.zeros(4, 4, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    given = noise, codes, labels, torch.ones(4)
    errors = [
        float((flow(renderer, *given, steps=steps, guided=False) - spread * noise).abs().mean())
        for steps in (16, 32, 64)
    ]
    assert errors[0] < 0.1 * spread and errors[0] > 2.5 * errors[1] > 6 * errors[2], errors


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_certain_prediction_is_the_picture(monkeypatch, steps):
    renderer, picture = settled(), torch.rand(3, 8, 8)
    monkeypatch.setattr(renderer, "forward", lambda noisy, *_: (2 * picture - 1).expand_as(noisy))
    found = renderer.sample(torch.zeros(2, 4, dtype=torch.long), [0, 1], steps=steps)
    torch.testing.assert_close(found, picture.expand(2, 3, 8, 8))


def test_guidance_moves_away_from_what_is_predicted_without(monkeypatch):
    renderer, times = settled(), []

    def forward(noisy, t, codes, labels, guidance=None):
        times.append(float(t[0]))
        known = (codes < 5).all(1) & (labels < 3)
        return torch.where(known.view(-1, 1, 1, 1), 0.2, 0.1).expand_as(noisy)

    monkeypatch.setattr(renderer, "forward", forward)
    codes = torch.zeros(1, 4, dtype=torch.long)
    renderer.sample(codes, [0], [1], steps=4, guidance=3.0)
    assert times == [0.0, *[time for time in (0.25, 0.5, 0.75) for _ in range(2)]]
    monkeypatch.setattr(renderer_flow, "GUIDED_FROM", 0.0)
    found = renderer.sample(codes, [0], [1], steps=4, guidance=3.0)
    torch.testing.assert_close(found, torch.full_like(found, (0.1 + 3 * 0.1 + 1) / 2))
    times.clear()
    renderer.sample(codes, [0], [1], steps=4, guidance=1.0)
    assert len(times) == 4


def test_a_picture_is_that_of_its_row():
    renderer, heard = settled(), []
    codes, seeds, labels = torch.randint(5, (5, 4)), [7, 2**70, -3, 7, 0], [0, -1, 2, 0, 1]
    codes[3] = codes[0]
    whole = renderer.sample(codes, seeds, labels, steps=3, progress=heard.append)
    assert whole.shape == (5, 3, 8, 8) and 0 <= whole.min() <= whole.max() <= 1
    assert not whole.is_inference() and sum(heard) == 3 * 5
    assert torch.equal(whole[3], whole[0]) and not torch.equal(whole[1], whole[0])
    for row in range(5):
        alone = renderer.sample(codes[row : row + 1], seeds[row : row + 1], labels[row : row + 1], steps=3)
        torch.testing.assert_close(alone[0], whole[row], atol=1e-5, rtol=0)
    assert not torch.allclose(renderer.sample(codes, seeds, steps=3), whole, atol=1e-4)  # without classes


def test_a_taught_guidance_takes_no_second_pass(monkeypatch):
    """It is an input, and without training changes nothing."""
    torch.manual_seed(0)
    renderer, codes = (
        FlowRenderer(FlowConfig(**SHAPE, classes=3, taught_guidance=3.0)).eval(),
        torch.ones(2, 4),
    )
    codes, passes, inner = codes.long(), [], renderer.forward
    torch.nn.init.normal_(renderer.modulation.weight)
    torch.nn.init.normal_(renderer.projection.weight)
    monkeypatch.setattr(renderer, "forward", lambda *given: passes.append(given[-1]) or inner(*given))
    before = [renderer.sample(codes, [0, 1], steps=3, guidance=weight) for weight in (1.0, 2.5)]
    assert torch.equal(*before) and len(passes) == 6 and passes[-1].tolist() == [2.5, 2.5]
    torch.nn.init.normal_(renderer.strengths.layers[-1].weight)
    after = [renderer.sample(codes, [0, 1], steps=3, guidance=weight) for weight in (1.0, 2.5)]
    assert not torch.allclose(*after, atol=1e-4)
    for weight in (0.9, 3.1):
        with pytest.raises(DigitError, match="taught 1 to 3"):
            renderer.sample(codes, [0, 1], guidance=weight)


def test_it_learns_to_draw_what_codes_say():
    """Four pictures, a code each."""
    torch.manual_seed(0)
    renderer = FlowRenderer(FlowConfig(**{**SHAPE, "length": 1, "width": 32}, guidance=1.0))
    pictures = (torch.rand(4, 3, 1, 1) * torch.ones(4, 3, 8, 8)).clamp(0.1, 0.9)
    optimizer = torch.optim.AdamW(renderer.parameters(), lr=3e-3)
    for _ in range(150):
        codes = torch.arange(32) % 4
        loss = renderer.loss(ViewBatch(pictures[codes], codes[:, None]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = renderer.sample(torch.arange(4)[:, None], range(4), steps=4)
    assert (found - pictures).abs().mean() < 0.05, (found - pictures).abs().mean()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"length": 5}, "square root"),
        ({"length": 9}, "square root"),
        ({"patch": 3}, "do not fill"),
        ({"heads": 3}, "choose a divisor"),
        ({"codes": 0}, "at least one code"),
        ({"classes": -1}, "at least one code"),
        ({"taught_guidance": 0.5}, "1 or more"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, said):
    with pytest.raises(DigitError, match=said):
        FlowConfig(**{**SHAPE, **changes})


def test_what_is_not_its_own_is_refused():
    renderer, codes = settled(), torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(DigitError, match="0 to 2"):
        renderer.sample(codes, [0, 1], [0, 3])
    with pytest.raises(DigitError, match="each of 2 pictures"):
        renderer.sample(codes, [0, 1], [0])
    with pytest.raises(DigitError):
        renderer.sample(codes + 5, [0, 1])
    with pytest.raises(DigitError):
        renderer.sample(codes, [0])
    with pytest.raises(DigitError, match="told no class"):
        settled(classes=0).sample(codes, [0, 1], [0, 0])
    assert math.isfinite(float(settled(classes=0).sample(codes, [0, 1], [-1, -1], steps=1).mean()))


def test_trained_by_the_loop_on_codes_with_their_pixels(chain, tmp_path):
    """Stopped and resumed it is the same; kept as an artifact, it draws the same pictures."""
    codes = Codes(chain.root / "codes")
    shape = {"codes": codes.vocabulary("codes"), "length": codes.length("codes"), "classes": 3}
    config = FlowConfig(image_size=16, patch=4, width=16, layers=1, heads=2, **shape)

    def trained(out, steps):
        torch.manual_seed(0)
        data = ViewData(codes, open_images(chain.images), batch_size=8)
        how = {"device": "cpu", "progress": False}
        return train(FlowRenderer(config), data, replace(chain.short, steps=steps, save_every=2), out, **how)

    whole = trained(tmp_path / "whole", 5)
    trained(tmp_path / "stopped", 2)
    resumed = trained(tmp_path / "stopped", 5)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    save(resumed, tmp_path / "flow", classes=codes.classes)
    opened = load(tmp_path / "flow", kind="renderer_flow")
    drawn = torch.from_numpy(codes.array("codes")[:3, 0].astype("int64"))
    pictures = resumed.eval().sample(drawn, range(3), [0, 1, -1], steps=2)
    assert torch.equal(opened.sample(drawn, range(3), [0, 1, -1], steps=2), pictures)
