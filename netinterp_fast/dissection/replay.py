"""From what a single pass has kept to the dissection, wherever the pass ran: in one process, several, or in shards."""

from __future__ import annotations

from tqdm import tqdm

from .chance import Chance, iou_intervals, null_iou
from .kept import Kept
from .passes import FirstPass, Found, SecondPass, Setup
from .ranks import Ranks
from .results import Dissection


def replayed(
    setup: Setup,
    first: FirstPass,
    kept: Kept,
    n_images: int,
    ranks: Ranks,
    chance: Chance,
    settings: dict,
    progress: bool,
) -> Dissection:
    """The dissection, the same on every rank: `first` and `kept` are what this rank's part of the pass gave, which saw
    so many images. Neither the model nor the data set is needed."""
    found = ranks.merged(first, FirstPass(setup)).found()
    second = SecondPass(setup, found)
    bar = tqdm(desc="tallies", unit="img", total=n_images, disable=not progress)
    with bar, setup.clock.time("tally"):
        for batch in kept.replay():
            second.add_kept(batch)
            bar.update(batch.labels.shape[0])
    result = ranks.merged(second, SecondPass(setup, found)).result(settings)
    if chance:
        with setup.clock.time("chance"):
            _judge(result, setup, found, kept, n_images, ranks, chance, progress)
    return result


def _judge(
    result: Dissection,
    setup: Setup,
    found: Found,
    kept: Kept,
    n_images: int,
    ranks: Ranks,
    chance: Chance,
    progress: bool,
) -> None:
    """Complete the result by what tells chance from more."""
    if chance.null_samples:
        with tqdm(desc="shuffled labels", unit="sample", total=chance.null_samples, disable=not progress) as bar:
            for key, scores in null_iou(setup, found, kept, ranks, chance, bar.update).items():
                result.layers[key].null_iou = scores
    if chance.bootstrap:
        with tqdm(desc="samples of the images", unit="img", total=n_images, disable=not progress) as bar:
            for key, interval in iou_intervals(setup, result.layers, kept, ranks, chance, bar.update).items():
                result.layers[key].iou_interval = interval
