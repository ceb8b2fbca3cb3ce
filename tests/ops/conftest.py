import sys
from pathlib import Path

import pytest
from implementations import IMPLEMENTATIONS, running

sys.path.append(str(Path(__file__).parents[1] / "cuda_emulation"))  # op_cases, shared with the kernels' tests


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    with running(request.param):
        yield request.param
