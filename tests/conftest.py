"""The benchmarks' networks and peers, for tests that compare with them."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benches


@pytest.fixture(scope="session")
def zennit():
    from benches.relevance_peers import _zennit

    try:
        return _zennit()
    except ImportError:
        pytest.skip("zennit is not installed")
