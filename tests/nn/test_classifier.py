import pytest
import torch
import torch.nn.functional as F

from digit.errors import DigitError
from digit.nn.batch import PixelBatch as Batch
from digit.nn.classifier import Classifier, ClassifierConfig, augment, mix

TINY = ClassifierConfig(classes=3, width=4)


def test_the_default_has_at_most_6_6_million_parameters():
    with torch.device("meta"):
        classifier = Classifier(ClassifierConfig(classes=10))
    assert sum(parameter.numel() for parameter in classifier.parameters()) <= 6_600_000


def test_features_lead_to_logits_at_any_size():
    classifier = Classifier(TINY).eval()
    for size in (32, 48):
        pixels = torch.rand(2, 3, size, size)
        features = classifier.features(pixels)
        assert features.shape == (2, 32)
        torch.testing.assert_close(classifier.head(features), classifier.logits(pixels))


def test_eval_does_not_depend_on_the_batch():
    classifier = Classifier(TINY).eval()
    pixels = torch.rand(5, 3, 32, 32)
    singly = torch.cat([classifier.logits(picture[None]) for picture in pixels])
    torch.testing.assert_close(singly, classifier.logits(pixels), rtol=1e-5, atol=1e-5)


def test_the_loss_in_eval_is_the_smoothed_cross_entropy():
    classifier = Classifier(TINY).eval()
    batch = Batch(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
    expected = F.cross_entropy(classifier.logits(batch.pixels), batch.labels, label_smoothing=0.1)
    torch.testing.assert_close(classifier.loss(batch), expected)


def test_a_few_steps_learn_colours():
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(classes=3, width=4, image_size=16, pad=2, cutout=4))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-2)
    labels = torch.arange(48) % 3
    pixels = torch.rand(48, 3, 16, 16) * 0.5 + 0.5 * F.one_hot(labels, 3)[:, :, None, None]
    for _ in range(15):
        loss = classifier.loss(Batch(pixels, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (classifier.eval().logits(pixels).argmax(1) == labels).float().mean() > 0.9


def test_mixing_gives_the_part_that_is_foreign():
    torch.manual_seed(0)
    pixels = torch.arange(64.0).view(64, 1, 1, 1).expand(64, 3, 16, 16)
    mixed, foreign = mix(pixels, 0.5)
    other = (mixed != pixels).float().mean((1, 2, 3))
    torch.testing.assert_close(foreign, other)
    assert torch.equal(torch.where(mixed == pixels, mixed, pixels.flip(0)), mixed)
    assert 0.25 < (foreign > 0).float().mean() < 0.75
    assert foreign.max() > 0.5
    assert torch.equal(mix(pixels, 0.0)[0], pixels)


def test_a_mixed_batch_learns_both_labels():
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(classes=2, width=4, image_size=16, pad=0, cutout=0, mix=1.0))
    pixels, labels = torch.rand(8, 3, 16, 16), torch.arange(8) % 2
    loss = classifier.loss(Batch(pixels, labels))
    loss.backward()
    assert loss.isfinite() and classifier.head.weight.grad is not None
    plain = classifier.eval().loss(Batch(pixels, labels))  # nothing is mixed when measuring
    torch.testing.assert_close(plain, classifier.loss(Batch(pixels, labels)))


def test_what_it_cannot_train_on_is_refused():
    classifier = Classifier(TINY)
    with pytest.raises(DigitError, match="one folder per class"):
        classifier.loss(Batch(torch.rand(2, 3, 32, 32), None))
    with pytest.raises(DigitError, match="32 px"):
        classifier.loss(Batch(torch.rand(2, 3, 64, 64), torch.tensor([0, 1])))


def test_augmented_pictures_are_crops_of_the_padded_one_or_of_its_mirror():
    pixels = torch.arange(48.0).reshape(1, 1, 6, 8).expand(64, -1, -1, -1)
    crops = {}
    for mirrored, picture in enumerate((pixels[:1], pixels[:1].flip(3))):
        padded = F.pad(picture, (2, 2, 2, 2), mode="reflect")[0, 0]
        for top in range(5):
            for left in range(5):
                crops[padded[top : top + 6, left : left + 8].numpy().tobytes()] = mirrored
    moved = augment(pixels, pad=2, cutout=0)
    found = [crops[picture[0].contiguous().numpy().tobytes()] for picture in moved]
    assert 10 < sum(found) < 54


def test_cutout_blanks_one_square_of_every_picture():
    moved = augment(torch.ones(16, 3, 10, 10), pad=0, cutout=4)
    assert ((moved == 0).sum((2, 3)) == 16).all()
    rows = (moved[:, 0] == 0).any(2).sum(1)
    assert (rows == 4).all()
    assert len({picture.numpy().tobytes() for picture in moved.contiguous()}) > 4


def test_augmentation_is_drawn_from_torchs_generator():
    pixels = torch.rand(4, 3, 8, 8)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(augment(pixels, pad=2, cutout=2))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
