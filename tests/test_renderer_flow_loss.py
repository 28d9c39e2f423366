import pytest
import torch
from torch import nn

from digit import renderer_flow, renderer_flow_loss
from digit.errors import DigitError
from digit.nn.batch import ViewBatch
from digit.renderer_flow import FlowConfig, FlowRenderer
from digit.renderer_flow_loss import SEEN_FROM, FlowLoss, FlowLossConfig

SHAPE = {"codes": 5, "length": 4, "image_size": 8, "patch": 2, "width": 16, "layers": 2, "heads": 2}


class Patches(nn.Module):
    """Pixels -> the values of 2 x 2 patches; which pictures it saw."""

    def __init__(self):
        super().__init__()
        self.width = 12
        self.scale, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, pixels):
        self.seen.append(pixels.detach())
        return self.scale * nn.functional.unfold(pixels, 2, stride=2).mT


def renderer(**changes):
    torch.manual_seed(0)
    made = FlowRenderer(FlowConfig(**{**SHAPE, "classes": 3, **changes}))
    for layer in (made.modulation, made.projection):
        nn.init.normal_(layer.weight, std=0.05)
    return made


def batch(count=8):
    torch.manual_seed(1)
    return ViewBatch(torch.rand(count, 3, 8, 8), torch.randint(5, (count, 4)), torch.randint(3, (count,)))


def loss_of(stage, given):
    torch.manual_seed(2)
    return stage.loss(given)


def test_without_encoder_and_teacher_it_is_the_renderers_own_loss():
    own = renderer()
    assert torch.equal(loss_of(FlowLoss(own), batch()), loss_of(own, batch()))
    assert torch.equal(
        loss_of(FlowLoss(own, FlowLossConfig(perceptual_weight=0.0), encoder=Patches()), batch()),
        loss_of(own, batch()),
    )


def test_features_of_a_share_of_late_predictions_count():
    own, encoder, given = renderer(), Patches(), batch(64)
    stage = FlowLoss(own, FlowLossConfig(perceptual_weight=2.0, perceptual_share=0.5), encoder=encoder)
    whole = loss_of(stage, given)
    torch.manual_seed(2)
    drawn = own.predict(given)
    late = (drawn.times[:32] >= SEEN_FROM).float()
    features = [encoder((each[:32] + 1) / 2) for each in (drawn.found, drawn.clean)]
    apart = 1 - nn.functional.cosine_similarity(*features, dim=-1).mean(1)
    assert 0 < late.sum() < 32 and [len(each) for each in encoder.seen[:2]] == [32, 32]
    torch.testing.assert_close(whole, drawn.loss + 2 * (late * apart).mean())
    torch.testing.assert_close(stage.metrics["perceptual"], (late * apart).mean().detach())
    torch.testing.assert_close(encoder.seen[1], given.pixels[:32])


def test_a_student_regresses_what_its_teacher_draws_of_the_same_noise(monkeypatch):
    teacher, given = renderer(steps=6), batch(4)
    student = renderer(steps=2, taught_guidance=2.0)
    stage, seen = FlowLoss(student, teacher=teacher), {}

    def run(by, *given, steps, guided, **how):
        found = renderer_flow.flow(by, *given, steps=steps, guided=guided, **how)
        seen["teacher" if by is teacher else "student"] = (*given, steps), found
        assert guided
        return found

    monkeypatch.setattr(renderer_flow_loss, "flow", run)
    loss = loss_of(stage, given)
    (first, drawn), (second, wanted) = seen["student"], seen["teacher"]
    assert all(torch.equal(a, b) for a, b in zip(first[:4], second[:4], strict=True))
    assert (first[4], second[4]) == (2, 6) and torch.equal(first[1], given.codes)
    assert 1 <= first[3].min() < first[3].max() <= 2
    torch.testing.assert_close(loss, (drawn - wanted.clamp(-1, 1)).square().mean())
    loss.backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(weight.grad is not None for weight in student.parameters())


def test_a_student_learns_its_teachers_guided_pictures_in_one_pass():
    """A teacher of random weights, whose flow bends."""
    teacher = renderer(steps=3, layers=1).eval()
    with torch.no_grad():
        for weight in teacher.parameters():
            weight += 0.15 * torch.randn_like(weight)
    student = FlowRenderer(FlowConfig(**SHAPE | {"layers": 1}, classes=3, steps=1, taught_guidance=2.0))
    student.load_state_dict(teacher.state_dict(), strict=False)
    stage, codes = FlowLoss(student, teacher=teacher), torch.randint(5, (16, 4))
    given = ViewBatch(torch.rand(16, 3, 8, 8), codes, torch.arange(16) % 3)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    losses = []
    for _ in range(50):
        loss = stage.loss(given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10]), (losses[:10], losses[-10:])


def test_what_judges_and_teaches_is_no_part_of_the_stage():
    own, encoder, teacher = renderer(), Patches(), renderer()
    stage = FlowLoss(own, encoder=encoder, teacher=teacher)
    assert {name.partition(".")[0] for name in stage.state_dict()} == {"renderer"}
    assert set(stage.parameters()) == set(own.parameters())
    stage.train()
    assert not encoder.training and not teacher.training and not encoder.scale.requires_grad


@pytest.mark.parametrize("other", [{"codes": 6}, {"length": 16}, {"image_size": 16}, {"classes": 2}])
def test_a_teacher_of_other_pictures_is_refused(other):
    with pytest.raises(DigitError, match=f"the teacher has {next(iter(other))}"):
        FlowLoss(renderer(), teacher=renderer(**other))


def test_distances_between_all_that_is_drawn_and_all_that_is_real_count():
    config = FlowLossConfig(perceptual_weight=0.0, frechet_weight=3.0)
    stage = FlowLoss(renderer(steps=1), config, encoder=Patches(), teacher=renderer(steps=1))
    stage.frechet["patches"].start = stage.frechet["pictures"].start = 1
    waiting, counting = loss_of(stage, batch()), loss_of(stage, batch())
    assert float(waiting.detach()) < 0.01  # student and teacher are one
    torch.testing.assert_close(counting, waiting + 3 * 2)
    assert stage.metrics["frechet_patches"] > 0 and stage.metrics["frechet_pictures"] > 0
    counting.backward()
    assert stage.renderer.projection.weight.grad.abs().max() > 0
    assert "frechet.patches.real.outer" in stage.state_dict()
    for missing in ({"encoder": Patches()}, {"teacher": renderer()}):
        with pytest.raises(DigitError, match="give teacher and tokenizer"):
            FlowLoss(renderer(), config, **missing)
