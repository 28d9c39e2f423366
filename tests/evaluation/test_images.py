import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from digit.errors import DigitError
from digit.evaluation import images
from digit.evaluation.classifier import Classifier, ClassifierConfig
from digit.evaluation.images import evaluate_images, measure, report
from digit.evaluation.networks import Network, classifier_network
from digit.evaluation.pictures import open_pictures
from digit.nn.backbone import timm  # noqa: F401  lets torch-fidelity import torchvision


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(classes=2, width=4, image_size=16))
    return classifier_network(classifier, classes=["cat", "dog"])


def pictures(n: int, seed: int, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def write_folder(path: Path, pixels: torch.Tensor, folders: list[str] | None = None) -> Path:
    for i, picture in enumerate(pixels):
        folder = path / folders[i] if folders else path
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{i:04d}.png")
    return path


def test_torch_fidelity_agrees_on_all_of_it(network):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    fake, real = pictures(60, 0), pictures(60, 1) // 2
    values = dict(evaluate_images(fake, real, [network], few=True, batch_size=7))
    a, b = network.features(fake).clone(), network.features(real).clone()
    fid = fid_statistics_to_metric(
        fid_features_to_statistics(a.double()), fid_features_to_statistics(b.double()), verbose=False
    )
    assert values[f"FD-{network.name}"] == pytest.approx(fid["frechet_inception_distance"], rel=1e-4)
    shares = calculate_precision_recall_full(a, b, neighborhood=3)
    assert (values[f"precision-{network.name}"], values[f"recall-{network.name}"]) == pytest.approx(shares)
    assert values["n_samples"] == values["n_reference"] == 60


def test_every_kind_of_source_gives_the_same_values(network, tmp_path):
    fake, real = pictures(30, 2), pictures(40, 3) // 2
    expected = dict(evaluate_images(fake, real, [network], few=True))
    folder = write_folder(tmp_path / "samples", fake)
    np.savez(tmp_path / "samples.npz", arr_0=fake.permute(0, 2, 3, 1).numpy())
    np.savez_compressed(tmp_path / "packed.npz", arr_0=fake.permute(0, 2, 3, 1).numpy())
    for source in (folder, tmp_path / "samples.npz", str(tmp_path / "packed.npz"), iter(fake.split(4))):
        values = dict(evaluate_images(source, real, [network], few=True, batch_size=8))
        assert values == pytest.approx(expected, rel=1e-4), source


def test_a_reference_of_another_size_is_resized_to_the_samples(network, tmp_path):
    fake = pictures(10, 4)
    constant = torch.full((10, 3, 40, 60), 90, dtype=torch.uint8)
    folder = write_folder(tmp_path / "reference", constant)
    values = dict(evaluate_images(fake, folder, [network], few=True))
    streamed = dict(evaluate_images(iter(fake.split(4)), folder, [network], few=True))
    assert streamed == pytest.approx(values, rel=1e-4)
    direct = dict(evaluate_images(fake, constant[..., :16, :16], [network], few=True))
    assert values == pytest.approx(direct, rel=1e-4)
    with pytest.raises(DigitError, match=r"is 16 px, .* 20 px"):
        dict(evaluate_images(fake, pictures(10, 5, size=20), [network], few=True))


def test_a_measured_reference_is_used_again(network):
    fake, real = pictures(20, 6), pictures(20, 7)
    reference = measure(open_pictures(real), [network])
    values = dict(evaluate_images(fake, reference, [network], few=True))
    assert values == dict(evaluate_images(fake, real, [network], few=True))
    with pytest.raises(DigitError, match="measured by 1 networks"):
        dict(evaluate_images(fake, reference, [network, network], few=True))


def test_class_folders_and_given_labels_count_alike(network, tmp_path):
    fake, real = pictures(12, 8), pictures(12, 9)
    guesses = network.probabilities(fake)
    assert guesses is not None
    labels = guesses.argmax(1)
    labels[0] = 1 - labels[0]
    name = f"class accuracy-{network.name}"
    values = dict(evaluate_images(fake, real, [network], few=True, labels=labels))
    assert values[name] == pytest.approx(11 / 12)
    # Folders of both classes, or names of one class only: numbers follow the names, not the folders' order.
    folder = write_folder(tmp_path / "samples", fake, [["cat", "dog"][label] for label in labels.tolist()])
    assert dict(evaluate_images(folder, real, [network], few=True))[name] == pytest.approx(11 / 12)
    np.savez(tmp_path / "s.npz", arr_0=fake.permute(0, 2, 3, 1).numpy(), arr_1=labels.numpy())
    assert dict(evaluate_images(tmp_path / "s.npz", real, [network], few=True))[name] == pytest.approx(
        11 / 12
    )
    assert name not in dict(evaluate_images(fake, real, [network], few=True))
    with pytest.raises(DigitError, match="3 labels for 12"):
        dict(evaluate_images(fake, real, [network], few=True, labels=labels[:3]))


def test_only_the_metrics_asked_for(network):
    values = dict(evaluate_images(pictures(9, 0), pictures(9, 1), [network], few=True, metrics=["fd"]))
    assert set(values) == {"n_samples", "n_reference", f"FD-{network.name}"}


def test_few_pictures_are_refused(network, monkeypatch):
    with pytest.raises(DigitError, match="tensor of pictures has 9 pictures, too few"):
        next(evaluate_images(pictures(9, 0), pictures(9, 1), [network]))
    monkeypatch.setattr(images, "FEWEST", 10)
    with pytest.raises(DigitError, match="stream of pictures has 9 pictures, too few"):
        next(evaluate_images(iter([pictures(9, 0)]), pictures(10, 1), [network]))
    assert dict(evaluate_images(pictures(10, 0), pictures(10, 1), [network]))["n_samples"] == 10


def test_the_report_is_json_and_names_the_features(network):
    text = json.dumps(report(evaluate_images(pictures(9, 0), pictures(8, 1), [network], few=True), [network]))
    value = json.loads(text)
    assert (value["n_samples"], value["n_reference"]) == (9, 8)
    assert value["features"] == [{"name": network.name, "sha256": network.sha256}]
    assert value["values"][f"FD-{network.name}"] >= 0
    assert "bicubic" in value["protocol"]


def test_bf16_is_near_fp32(network):
    fake, real = pictures(40, 0), pictures(40, 1) // 3
    exact, near = (
        dict(evaluate_images(fake, real, [network], few=True, precision=precision, metrics=["fd"]))
        for precision in ("fp32", "bf16")
    )
    assert near == pytest.approx(exact, rel=0.05)


def test_what_is_no_set_of_pictures_is_refused(network, tmp_path):
    np.savez(tmp_path / "wrong.npz", arr_0=np.zeros((2, 4, 4, 3), dtype=np.float32))
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    write_folder(tmp_path / "broken", pictures(1, 0))
    (tmp_path / "broken" / "0000.png").write_bytes(b"no picture")
    for source, message in (
        (tmp_path / "wrong.npz", "uint8 n h w 3"),
        (tmp_path / "other.npz", "arr_0"),
        (tmp_path / "text.npz", "arr_0"),
        (tmp_path / "none.npz", "none.npz"),
        (tmp_path / "broken", "0000.png"),
        (pictures(3, 0).float(), "give uint8"),
        (iter([]), "no pictures"),
    ):
        with pytest.raises(DigitError, match=message):
            dict(evaluate_images(source, pictures(9, 1), [network], few=True))
