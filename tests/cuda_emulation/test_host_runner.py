"""The host runner itself: it runs a correct kernel, and notices each kind of mistake that it promises to."""

import pytest

MISTAKES = {
    "missing thread": "deadlock: .*255 of 256 threads wait in __syncthreads",
    "diverging lanes": "deadlock: .*1 of 32 threads wait in __shfl_sync",
    "partial mask": "__ballot_sync must name all lanes",
    "uninitialised shared memory": "sum is not 0",
    "missing barrier": "wrong sum",
}


@pytest.mark.parametrize("seed", range(4))
def test_correct_kernel_passes(kernels, seed):
    kernels.with_launch(1, seed).runner_check("none")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_noticed(kernels, mistake):
    with pytest.raises(RuntimeError, match=MISTAKES[mistake]):
        kernels.runner_check(mistake)
