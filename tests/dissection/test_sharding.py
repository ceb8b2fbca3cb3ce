"""Several processes give the files of one."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from interrupted import (
    N_BATCHES,
    N_IMAGES,
    SlowDataset,
    checkpoints,
    contents,
    finish,
    kill,
    run,
    start,
    wait_for_checkpoint,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out, dataset=SlowDataset(N_IMAGES))
    return contents(out)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks(tmp_path, whole, ranks):
    assert finish(start(tmp_path / "run", ranks)) == [0] * ranks
    assert contents(tmp_path / "run") == whole


@pytest.mark.parametrize("convention", ["netdissect_lite", "dissect", "concept"])
def test_under_other_conventions(tmp_path, convention):
    run(tmp_path / "whole", dataset=SlowDataset(N_IMAGES), convention=convention)
    assert finish(start(tmp_path / "run", 2, convention=convention)) == [0, 0]
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_rank_without_a_batch(tmp_path):
    run(tmp_path / "whole", dataset=SlowDataset(N_IMAGES), batch_size=N_IMAGES - 1)
    assert finish(start(tmp_path / "run", 3, batch_size=N_IMAGES - 1)) == [0, 0, 0]
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


SCRIPT = """
from pathlib import Path
from interrupted import N_IMAGES, SlowDataset, contents, run
result = run(Path("run"), dataset=SlowDataset(N_IMAGES))
assert result.thumbnails and (Path("run") / "dissection.json").is_file()  # every rank, once all is written
run(Path("again"), dataset=SlowDataset(N_IMAGES))  # in the same process group
"""


def test_under_torchrun(tmp_path, whole):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "script.py"]
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "run") == whole
    assert contents(tmp_path / "again") == whole


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(s, marks=pytest.mark.extended) for s in range(2, 12))])
def test_a_killed_rank(tmp_path, whole, seed):
    """The others can not go on without it; started again, all do."""
    moment = random.Random(seed)
    victim, number, batches = moment.randint(0, 1), moment.randint(1, 2), moment.randint(1, N_BATCHES // 2)
    processes = start(tmp_path / "run", 2)
    assert wait_for_checkpoint(tmp_path / "run", processes[victim], number, batches, victim)
    time.sleep(moment.uniform(0, 0.02))
    kill([processes[victim]])
    kill(processes)  # as torchrun does
    assert finish(start(tmp_path / "run", 2)) == [0, 0]
    assert contents(tmp_path / "run") == whole


@pytest.fixture
def in_the_second_pass(tmp_path):
    """The folder of a run of two ranks, both killed in the second pass."""
    out = tmp_path / "run"
    processes = start(out, 2)
    for rank in (0, 1):
        assert wait_for_checkpoint(out, processes[rank], 2, 1, rank)
    kill(processes)
    return out


@pytest.mark.parametrize("lost", [[0], [1], [0, 1]])
def test_a_rank_without_checkpoints_joins_the_others(in_the_second_pass, whole, lost):
    """One that lost its own needs what the first pass found; the others have it."""
    out = in_the_second_pass
    for path in checkpoints(out):
        if int(path.name.split("-")[1]) in lost:
            path.unlink()
    assert finish(start(out, 2)) == [0, 0]
    assert contents(out) == whole


@pytest.mark.parametrize("ranks", [1, 3])
def test_another_number_of_ranks_does_not_go_on(in_the_second_pass, ranks):
    out = in_the_second_pass
    before = checkpoints(out)
    processes = start(out, ranks)
    finish(processes)
    for rank in range(ranks):
        assert f"with a different ranks (2 there, {ranks} here)" in (out.parent / f"rank-{rank}.error").read_text()
    assert checkpoints(out) == before


def test_ranks_with_different_weights(tmp_path):
    assert finish(start(tmp_path / "run", 2, heavier_rank=1)) == [1, 1]
    for rank in (0, 1):
        error = (tmp_path / f"rank-{rank}.error").read_text()
        assert error.startswith("the ranks were given different runs: fingerprint (weights ")
        assert "on rank 1, weights " in error
    assert not (tmp_path / "run").exists()


def test_an_error_on_one_rank_ends_the_others(tmp_path):
    """The fourth batch is rank 1's."""
    assert finish(start(tmp_path / "run", 2, broken_image=13, checkpoint_every=60)) == [1, 1]
    assert "images from 12 on: acts[1, 0] has a NaN" in (tmp_path / "rank-1.error").read_text()
    assert not (tmp_path / "run").exists()
