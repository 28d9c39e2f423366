"""A hub on this machine, which has one file."""

import pytest
from fake_hub import DATA, NAME, fake_hub

from digit.weights import hub as downloading


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    with fake_hub() as hub:
        hub.files[NAME] = DATA
        yield hub
