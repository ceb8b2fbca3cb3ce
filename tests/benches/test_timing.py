"""What the benchmarks time with: turns, cold buffers, medians."""

import pytest
import torch

from benches.timing import CPU, Rotating, cache_bytes, interleaved, ratio, seconds_of, spread


def test_rotating_gives_every_copy_in_turn():
    rotating = Rotating([torch.arange(6), torch.ones(2)], beyond=200)  # 56 bytes a copy
    seen = []
    call = rotating.calling(lambda numbers, ones: seen.append(numbers.data_ptr()))
    for _ in range(8):
        call()
    assert len(rotating.copies) == 4
    assert len(set(seen)) == 4
    assert seen[:4] == seen[4:]
    assert all(torch.equal(numbers, torch.arange(6)) and torch.equal(ones, torch.ones(2))
               for numbers, ones in rotating.copies)  # fmt: skip


def test_rotating_has_two_copies_at_least_and_counts_for_each_function():
    rotating = Rotating([torch.ones(1000)], beyond=0)
    assert len(rotating.copies) == 2
    first, second = (rotating.calling(lambda numbers: numbers.data_ptr()) for _ in range(2))
    assert [first(), first(), second(), first()] == [rotating.copies[i][0].data_ptr() for i in (0, 1, 0, 0)]


def test_rotating_keeps_results_so_that_new_ones_lie_elsewhere():
    call = Rotating([torch.ones(100_000)], beyond=1_000_000).calling(lambda numbers: numbers + 1)
    places = [call().data_ptr() for _ in range(3)]
    assert len(set(places)) == 3


def test_rotating_gives_a_part():
    call = Rotating([torch.arange(4)], beyond=0).calling(lambda numbers: numbers.tolist(), lambda t: (t[0][:2],))
    assert call() == [0, 1]


def test_turns_are_taken_and_the_first_run_is_not_counted():
    order = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, turn=0.0)
    assert [len(runs) for runs in seconds.values()] == [3, 3]
    assert order[:2] == ["a", "b"]
    seconds = interleaved({"a": lambda: order.append("c")}, 2, turn=1e-3)
    assert all(0 < s < 1e-3 for s in seconds["a"])
    assert order.count("c") > 4


def test_medians_and_spread():
    assert spread([3.0, 1.0, 2.0, 10.0]) == {"min": 1.0, "median": 2.5, "max": 10.0}
    assert ratio([2.0, 30.0, 9.0], [1.0, 10.0, 3.0]) == 3.0
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_seconds_and_cache():
    assert seconds_of(lambda: None) >= 0
    assert cache_bytes(CPU) >= 2**18
