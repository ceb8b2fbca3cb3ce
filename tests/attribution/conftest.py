"""Peers and trained weights, where they are there."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_numbers_in_every_run_and_no_threads_that_wait_for_each_other():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def captum_lrp():
    return pytest.importorskip("captum.attr", reason="captum is not installed").LRP


@pytest.fixture(scope="session")
def weights() -> Path:
    folder = os.environ.get("NETINTERP_FAST_TEST_DATA")
    if not folder:
        pytest.skip("NETINTERP_FAST_TEST_DATA is not set")
    return Path(folder) / "weights"
