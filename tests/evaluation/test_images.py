import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from digit.errors import DigitError
from digit.evaluation import protocols
from digit.evaluation.images import picture_metrics, report
from digit.evaluation.measure import measure
from digit.evaluation.networks import INCEPTION, Network, classifier_network
from digit.evaluation.pictures import open_pictures
from digit.evaluation.protocols import ADM, ALL, DIGIT_PAPER, OWN
from digit.nn.classifier import Classifier, ClassifierConfig


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
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    fake, real = pictures(60, 0), pictures(60, 1) // 2
    values = dict(picture_metrics(fake, real, [network], few=True, batch_size=7, metrics=ALL))
    a, b = network.outputs(fake).features.clone(), network.outputs(real).features.clone()
    fid = fid_statistics_to_metric(
        fid_features_to_statistics(a.double()), fid_features_to_statistics(b.double()), verbose=False
    )
    assert values[f"FD-{network.name}"] == pytest.approx(fid["frechet_inception_distance"], rel=1e-4)
    shares = calculate_precision_recall_full(a, b, neighborhood=3)
    assert (values[f"precision-{network.name}"], values[f"recall-{network.name}"]) == pytest.approx(shares)
    kid = kid_features_to_metric(a, b, kid_subset_size=60, verbose=False)
    assert values[f"KD-{network.name}"] == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-3)
    score = isc_features_to_metric(network.outputs(fake).probabilities.clone().log())
    assert values[f"IS-{network.name}"] == pytest.approx(score["inception_score_mean"], rel=1e-5)
    assert values["n_samples"] == values["n_reference"] == 60


def test_every_kind_of_source_gives_the_same_values(network, tmp_path):
    fake, real = pictures(30, 2), pictures(40, 3) // 2
    expected = dict(picture_metrics(fake, real, [network], few=True))
    folder = write_folder(tmp_path / "samples", fake)
    np.savez(tmp_path / "samples.npz", arr_0=fake.permute(0, 2, 3, 1).numpy())
    np.savez_compressed(tmp_path / "packed.npz", arr_0=fake.permute(0, 2, 3, 1).numpy())
    for source in (folder, tmp_path / "samples.npz", str(tmp_path / "packed.npz"), iter(fake.split(4))):
        values = dict(picture_metrics(source, real, [network], few=True, batch_size=8))
        assert values == pytest.approx(expected, rel=1e-4), source


def test_a_reference_of_another_size_is_resized_to_the_samples(network, tmp_path):
    fake = pictures(10, 4)
    constant = torch.full((10, 3, 40, 60), 90, dtype=torch.uint8)
    folder = write_folder(tmp_path / "reference", constant)
    values = dict(picture_metrics(fake, folder, [network], few=True))
    streamed = dict(picture_metrics(iter(fake.split(4)), folder, [network], few=True))
    assert streamed == pytest.approx(values, rel=1e-4)
    direct = dict(picture_metrics(fake, constant[..., :16, :16], [network], few=True))
    assert values == pytest.approx(direct, rel=1e-4)
    with pytest.raises(DigitError, match=r"is 16 px, .* 20 px"):
        dict(picture_metrics(fake, pictures(10, 5, size=20), [network], few=True))


def test_a_measured_reference_is_used_again(network):
    fake, real = pictures(20, 6), pictures(20, 7)
    reference = measure(open_pictures(real), [network])
    values = dict(picture_metrics(fake, reference, [network], few=True))
    assert values == dict(picture_metrics(fake, real, [network], few=True))
    with pytest.raises(DigitError, match="measured by 1 networks"):
        dict(picture_metrics(fake, reference, [network, network], few=True))


def test_class_folders_and_given_labels_count_alike(network, tmp_path):
    fake, real = pictures(12, 8), pictures(12, 9)
    guesses = network.outputs(fake).probabilities
    assert guesses is not None
    labels = guesses.argmax(1)
    labels[0] = 1 - labels[0]
    name = f"class accuracy-{network.name}"
    values = dict(picture_metrics(fake, real, [network], few=True, labels=labels))
    assert values[name] == pytest.approx(11 / 12)
    # Folders of both classes, or names of one class only: numbers follow the names, not the folders' order.
    folder = write_folder(tmp_path / "samples", fake, [["cat", "dog"][label] for label in labels.tolist()])
    assert dict(picture_metrics(folder, real, [network], few=True))[name] == pytest.approx(11 / 12)
    np.savez(tmp_path / "s.npz", arr_0=fake.permute(0, 2, 3, 1).numpy(), arr_1=labels.numpy())
    assert dict(picture_metrics(tmp_path / "s.npz", real, [network], few=True))[name] == pytest.approx(
        11 / 12
    )
    assert name not in dict(picture_metrics(fake, real, [network], few=True))
    with pytest.raises(DigitError, match="3 labels for 12"):
        dict(picture_metrics(fake, real, [network], few=True, labels=labels[:3]))


def test_only_the_metrics_asked_for(network):
    values = dict(picture_metrics(pictures(9, 0), pictures(9, 1), [network], few=True, metrics=["fd"]))
    assert set(values) == {"n_samples", "n_reference", f"FD-{network.name}"}


def test_few_pictures_are_refused(network, monkeypatch):
    with pytest.raises(DigitError, match="tensor of pictures has 9 pictures, too few"):
        next(picture_metrics(pictures(9, 0), pictures(9, 1), [network]))
    monkeypatch.setattr(protocols, "FEWEST", 10)
    with pytest.raises(DigitError, match="stream of pictures has 9 pictures, too few"):
        next(picture_metrics(iter([pictures(9, 0)]), pictures(10, 1), [network]))
    assert dict(picture_metrics(pictures(10, 0), pictures(10, 1), [network]))["n_samples"] == 10


def test_the_report_is_a_result_and_names_the_features(network):
    text = json.dumps(report(picture_metrics(pictures(9, 0), pictures(8, 1), [network], few=True), [network]))
    value = json.loads(text)
    assert (value["kind"], value["measurement"]) == ("result", "images")
    assert value["counts"] == {"samples": 9, "reference": 8}
    assert value["features"] == [{"name": network.name, "sha256": network.sha256}]
    assert value["values"][f"FD-{network.name}"] >= 0
    assert value["protocol"].startswith("own: ")


def test_features_are_kept_only_when_a_metric_needs_them(network):
    assert {"precision_recall", "kd"}.isdisjoint(OWN.metrics)
    names = set(dict(picture_metrics(pictures(9, 0), pictures(9, 1), [network], few=True)))
    assert names == {
        "n_samples",
        "n_reference",
        *(f"{m}-{network.name}" for m in ("FD", "IS", "IS deviation")),
    }


@pytest.fixture
def inception() -> Network:
    """Has InceptionV3's name and gives mean colours, corners and logits, so that protocols take no time."""
    module = torch.nn.Linear(3, 12, bias=False)
    torch.manual_seed(0)
    torch.nn.init.normal_(module.weight, std=4)

    def forward(pixels: torch.Tensor):
        means = pixels.mean((2, 3))
        return means, module(means), pixels[:, :, :2, :2].permute(0, 2, 3, 1).flatten(1)

    return Network(INCEPTION, "f" * 64, module.requires_grad_(False), forward)


def rows(pixels: torch.Tensor) -> np.ndarray:
    return pixels.permute(0, 2, 3, 1).numpy()


def test_adm_reads_a_references_statistics_and_pictures(inception, tmp_path):
    fake, real, few_real = pictures(60, 0), pictures(200, 1) // 2, pictures(20, 2) // 2
    whole = measure(open_pictures(real), [inception], spatial=True)[0]
    statistics = {
        "mu": whole.moments.mean,
        "sigma": whole.moments.covariance,
        "mu_s": whole.spatial.mean,
        "sigma_s": whole.spatial.covariance,
    }
    statistics = {name: value.numpy() for name, value in statistics.items()}
    np.savez(tmp_path / "reference.npz", arr_0=rows(few_real), **statistics)
    np.savez(tmp_path / "statistics.npz", **statistics)
    np.savez(tmp_path / "samples.npz", arr_0=rows(fake), arr_1=np.zeros(60, dtype=np.int64))
    sets = tmp_path / "samples.npz", tmp_path / "reference.npz"
    values = dict(picture_metrics(*sets, [inception], protocol=ADM, few=True))
    direct = dict(picture_metrics(fake, real, [inception], few=True))
    assert values["FID"] == pytest.approx(direct["FID"], rel=1e-9)
    assert values["sFID"] == pytest.approx(direct["sFID"], rel=1e-9)
    assert (values["n_samples"], values["n_reference"]) == (60, 20)
    features, manifold = (inception.outputs(part).features.clone() for part in (fake, few_real))
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    shares = calculate_precision_recall_full(features, manifold, neighborhood=3)
    assert (values["precision"], values["recall"]) == pytest.approx(shares)
    assert "class accuracy" not in values  # labels are no outputs of InceptionV3
    # A file of statistics alone gives the same distances, also outside of the protocol.
    for protocol in (ADM, OWN):
        alone = dict(
            picture_metrics(sets[0], tmp_path / "statistics.npz", [inception], protocol=protocol, few=True)
        )
        assert (alone["FID"], alone["sFID"], alone["n_reference"]) == (values["FID"], values["sFID"], 0)
        assert "precision" not in alone
    # Outside of it, the pictures count where there are some.
    own = dict(picture_metrics(*sets, [inception], few=True))
    assert own["FID"] == pytest.approx(dict(picture_metrics(fake, few_real, [inception], few=True))["FID"])


def test_adm_scores_consecutive_pictures_in_their_order(inception, monkeypatch):
    from torch_fidelity.metric_isc import isc_features_to_metric

    fake = pictures(60, 0)
    fake[:30] //= 4
    monkeypatch.setattr("digit.evaluation.images.inception_score", seen := _Seen())
    dict(picture_metrics(fake, pictures(20, 1), [inception], protocol=ADM, few=True, metrics=["is"]))
    assert seen.options == {"splits": 10, "split_size": 5000, "seed": None}
    guesses = inception.outputs(fake).probabilities
    theirs = isc_features_to_metric(guesses.clone().log(), splits=2, shuffle=False)
    from digit.evaluation.scores import inception_score

    ours = inception_score(guesses, split_size=30, seed=None)
    assert ours == pytest.approx((theirs["inception_score_mean"], theirs["inception_score_std"]), rel=1e-4)


class _Seen:
    def __call__(self, probabilities: torch.Tensor, **options: object) -> tuple[float, float]:
        self.options = options
        return 1.0, 0.0


def test_protocols_refuse_what_they_are_not_made_for(inception, network, tmp_path):
    fake = pictures(9, 0)
    np.savez(tmp_path / "both.npz", arr_0=rows(fake), mu=np.zeros(3), sigma=np.eye(3))
    np.savez(tmp_path / "alone.npz", mu=np.zeros(3), sigma=np.eye(3))
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.eye(4))
    cases = (
        ((fake, fake, [network]), {"protocol": ADM, "few": True}, "adm is of FID's InceptionV3"),
        ((tmp_path / "both.npz", fake, [inception]), {"protocol": ADM, "few": True}, "as references do"),
        ((tmp_path / "alone.npz", fake, [inception]), {"few": True}, "statistics and no pictures"),
        ((fake, tmp_path / "alone.npz", [network]), {"few": True}, "statistics of FID's InceptionV3"),
        ((fake, tmp_path / "odd.npz", [inception]), {"few": True}, "mu and sigma of .*odd.npz"),
        ((fake, fake, [inception]), {"protocol": DIGIT_PAPER, "few": True}, "takes 256 px samples"),
        ((pictures(9, 0, 256), fake, [inception]), {"protocol": DIGIT_PAPER}, "takes 50000: give as many"),
    )
    for arguments, options, message in cases:
        with pytest.raises(DigitError, match=message):
            dict(picture_metrics(*arguments, **options))


def test_the_papers_reference_is_resized_as_torchvision_does(inception, tmp_path):
    from torchvision.transforms import CenterCrop, Compose, Resize

    photos = pictures(3, 0, 300)[:, :, :290]
    folder = write_folder(tmp_path / "photos", photos)
    transform = Compose([Resize(256), CenterCrop(256)])
    expected = torch.stack(
        [
            torch.from_numpy(np.array(transform(Image.open(path)))).permute(2, 0, 1)
            for path in sorted(folder.iterdir())
        ]
    )
    found = torch.cat(list(open_pictures(folder, size=256, bilinear=True).batches))
    assert torch.equal(found, expected)
    fake = pictures(3, 5, 256)
    values = dict(picture_metrics(fake, folder, [inception], protocol=DIGIT_PAPER, few=True))
    direct = dict(picture_metrics(fake, expected, [inception], few=True, metrics=["fd", "is"]))
    assert values == direct


def test_bf16_is_near_fp32(network):
    fake, real = pictures(40, 0), pictures(40, 1) // 3
    exact, near = (
        dict(picture_metrics(fake, real, [network], few=True, precision=precision, metrics=["fd"]))
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
        (tmp_path / "other.npz", "mu and sigma"),
        (tmp_path / "text.npz", "arr_0"),
        (tmp_path / "none.npz", "none.npz"),
        (tmp_path / "broken", "0000.png"),
        (pictures(3, 0).float(), "give uint8"),
        (iter([]), "no pictures"),
    ):
        with pytest.raises(DigitError, match=message):
            dict(picture_metrics(source, pictures(9, 1), [network], few=True))
