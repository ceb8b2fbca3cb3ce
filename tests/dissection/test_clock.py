"""Where the time of a run goes."""

import pytest
import torch

from netinterp_fast.dissection import clock as clock_module
from netinterp_fast.dissection.clock import Clock


class Event:
    """An event of a GPU whose time is told by hand, in seconds."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.now

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1000 * (end.at - self.at)


@pytest.fixture(params=["cpu", "cuda"])
def clock(request, monkeypatch):
    Event.now = 0.0
    monkeypatch.setattr(clock_module.torch.cuda, "Event", Event)
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: Event.now)
    return Clock(torch.device(request.param))


def spend(clock, work, seconds, inner=()):
    with clock.time(work):
        Event.now += seconds
        for one in inner:
            spend(clock, *one)
            Event.now += seconds


@pytest.mark.parametrize("noted", [1, 2, 1024])
def test_inner_work_counts_for_itself_alone(clock, monkeypatch, noted):
    monkeypatch.setattr(clock_module, "_OPEN", noted)
    spend(clock, "decode", 1.0)
    Event.now += 5.0  # outside
    spend(clock, "forward", 2.0, [("tally", 3.0), ("tally", 4.0)])
    assert clock.seconds() == {"decode": 1.0, "forward": 6.0, "tally": 7.0, "chance": 0.0, "checkpoints": 0.0}
    assert clock.shares() == {"decode": 0.071, "forward": 0.429, "tally": 0.5, "chance": 0.0, "checkpoints": 0.0}
    assert clock.summary(28) == (
        "2.0 images/s, bounded by thresholds and tallies (decode 7 %, forward 43 %, tally 50 %)"
    )


def test_an_error_ends_the_work(clock):
    def fail():
        with clock.time("forward"), clock.time("tally"):
            Event.now += 1.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    spend(clock, "decode", 2.0)
    assert clock.seconds() == {"decode": 2.0, "forward": 0.0, "tally": 1.0, "chance": 0.0, "checkpoints": 0.0}


def test_nothing_was_done(clock):
    assert set(clock.shares().values()) == {0.0}
