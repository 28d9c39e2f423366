"""digit.evaluation.inception: where its file comes from, and how pictures are resized and weights folded."""

import hashlib
import io
import urllib.error

import pytest
import torch
import torch.nn.functional as F

from digit.errors import DigitError
from digit.evaluation import inception
from digit.evaluation.inception import Inception, resize_as_tensorflow
from digit.evaluation.networks import open_network
from digit.evaluation.selftest import random_tensors


def test_inception_comes_from_the_cache_or_is_fetched_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"published").hexdigest()[:8])
    place = tmp_path / "checkpoints" / inception.NAME
    answers = [urllib.error.URLError("no route"), TimeoutError("slow"), io.BytesIO(b"other")]

    def urlopen(address, timeout):
        assert address == inception.ADDRESS
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(inception.urllib.request, "urlopen", urlopen)
    for words in ("no route.*inception_weights", "slow", "another file than published"):
        with pytest.raises(DigitError, match=words):
            open_network("inception")
        assert not place.exists()
        assert not list(tmp_path.rglob(".tmp-*"))
    answers.append(io.BytesIO(b"published"))
    for _ in range(2):  # the second time nothing is fetched
        with pytest.raises(DigitError, match="is no PyTorch"):
            open_network("inception")
    assert place.read_bytes() == b"published"


def test_pictures_are_resized_from_the_corner_without_smoothing():
    row = torch.tensor([0.0, 10, 20, 40]).expand(1, 1, 4, 4)
    double = resize_as_tensorflow(row, 8)
    assert double[0, 0, 0].tolist() == [0, 5, 10, 15, 20, 30, 40, 40]
    assert torch.equal(resize_as_tensorflow(row, 2)[0, 0, 0], torch.tensor([0.0, 20]))
    assert torch.equal(resize_as_tensorflow(row, 4), row)
    upright = resize_as_tensorflow(row.mT, 8)
    assert torch.equal(upright, double.mT)


def test_a_batch_norm_is_folded_into_its_convolution():
    tensors, module = random_tensors(), Inception()
    module.fill(tensors, where="random weights")
    name = "Conv2d_1a_3x3"
    first = module.steps[name]
    x = torch.randn(2, 3, 15, 15)
    plain = F.conv2d(x, tensors[f"{name}.conv.weight"], stride=2)
    parts = (tensors[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    torch.testing.assert_close(first(x), F.batch_norm(plain, *parts, eps=1e-3).relu(), rtol=1e-4, atol=1e-4)
    with pytest.raises(DigitError, match=r"random weights .*missing: fc\.bias"):
        module.fill({key: tensors[key] for key in tensors if key != "fc.bias"}, where="random weights")
