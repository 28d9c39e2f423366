from typing import Any

import pytest
import torch
from PIL import Image

from digit.data.images import open_images
from digit.data.loader import load_pixels
from digit.evaluation.result import read_result
from digit.nn.classifier import Classifier, ClassifierConfig
from digit.nn.sampling import DRAW
from digit.pipeline import DigitPipeline
from digit.rendering import to_uint8
from digit.weights.artifact import load, save


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    save(Classifier(ClassifierConfig(classes=3, width=4, image_size=16)), folder, classes=["a", "b", "c"])
    return f"classifier:{folder}"


def test_both_rows_and_the_psnr_is_that_of_the_pictures(chain, run, json_of, saved_in, tmp_path, classifier):
    out = tmp_path / "back.json"
    code, printed, spoken = run(
        *("evaluate", "reconstruction", chain.root / "model", "--images", chain.images),
        *("--features", classifier, "--few", "--batch", "20", "--out", out, "--device", "cpu", "--json"),
    )
    assert code == 0, spoken
    values = json_of(printed)["values"]
    rows = {name.split(": ")[0] for name in values}
    assert rows == {"real pictures", "DiGIT + VQ", "VQ only"}
    assert sum(name.startswith("VQ only: FD-classifier") for name in values) == 1
    vqgan: Any = load(chain.root / "vqgan")
    source = open_images(chain.images)
    real = load_pixels(source, range(len(source)), 16)[1]
    with torch.no_grad():
        again = to_uint8(vqgan.decode(vqgan.encode(real.float() / 255)))
    error = ((again.double() - real.double()) / 255).square().mean()
    assert values["VQ only: PSNR"] == pytest.approx(float(-10 * error.log10()), abs=0.02)
    model = DigitPipeline.from_pretrained(chain.root / "model")
    share = float((model.encode(real) == model.encode(again)).double().mean())
    assert values["VQ only: codes back"] == pytest.approx(share, abs=0.02) and 0 < share < 1
    assert 0 < values["DiGIT + VQ: codes back"] < 1 and "codes back" in spoken
    result = read_result(out)
    assert "tokenised again" in result["settings"]["codes back"]
    assert result["counts"] == {"pictures": 48}
    assert result["settings"]["renderer"]["name"] == "autoregressive"
    assert result["settings"]["draw"] == DRAW
    with Image.open(tmp_path / "back.png") as image:
        assert image.size[0] > image.size[1]  # 16 columns, three rows
    assert saved_in(spoken) == ["back.json", "back.png"]
    assert "48 pictures of pictures.zip at 16 px and back by model" in spoken
    assert "PSNR, dB" in spoken and "48 pictures: not comparable" in spoken
    assert "1.92" in spoken
    assert "175.6" in spoken


def test_batches_do_not_change_the_values_and_the_renderer_does(chain, run, json_of, classifier):
    command = ("evaluate", "reconstruction", chain.root / "model", "--images", chain.images)
    command = (*command, "--features", classifier, "--few", "--num", "12", "--device", "cpu", "--json")
    values = [json_of(run(*command, *more)[1])["values"] for more in ((), ("--batch", "5"))]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    masked = json_of(run(*command, "--renderer", "masked")[1])["values"]
    assert masked["VQ only: PSNR"] == values[0]["VQ only: PSNR"]
    assert masked["DiGIT + VQ: PSNR"] != values[0]["DiGIT + VQ: PSNR"]


def test_classes_of_folders_are_told_where_the_renderer_knows_them(by_class, chain, run, json_of, classifier):
    command = ("--features", classifier, "--few", "--num", "12", "--device", "cpu", "--json")
    for model, classes in ((by_class, True), (chain, None)):
        code, printed, spoken = run(
            *("evaluate", "reconstruction", model.root / "model", "--images", chain.images), *command
        )
        assert code == 0, spoken
        assert json_of(printed)["settings"]["renderer"].get("classes") is classes


def test_few_pictures_are_refused(chain, run, classifier):
    code, _, spoken = run(
        *("evaluate", "reconstruction", chain.root / "model", "--images", chain.images),
        *("--features", classifier, "--device", "cpu"),
    )
    assert code == 2
    assert "--few" in spoken
