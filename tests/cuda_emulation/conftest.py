import shutil

import pytest
from emulated import EmulatedKernels, build


@pytest.fixture(scope="session")
def kernels(tmp_path_factory) -> EmulatedKernels:
    if shutil.which("g++") is None:
        pytest.skip("the host runner needs g++")
    return EmulatedKernels(build(tmp_path_factory.mktemp("kernels")))
