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
def one_thread():
    """For tiny runs, in which torch's threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> torch.nn.Module:
    return tiny_model()


@pytest.fixture
def dataset() -> TinyDataset:
    return TinyDataset()
