import sys
from pathlib import Path

import pytest
import torch
from tiny import TinyDataset, tiny_model

sys.path.append(str(Path(__file__).parents[1] / "ops"))  # implementations

from implementations import IMPLEMENTATIONS, running


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    with running(request.param):
        yield request.param


@pytest.fixture
def model() -> torch.nn.Module:
    return tiny_model()


@pytest.fixture
def dataset() -> TinyDataset:
    return TinyDataset()
