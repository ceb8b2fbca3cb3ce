import os
import subprocess
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


@pytest.fixture
def small_disk(request, tmp_path):
    """A file system of its own, of the size that the test asks for."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(disk)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
