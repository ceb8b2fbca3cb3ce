"""The command line: `netinterp-fast dissect`, `merge`, `explain`, `bench` and `doctor`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn
from tqdm import tqdm

from . import Dissection, __version__, _library, build_info, dissect, merge_shards
from ._explain_command import METHODS, Preparation, explain
from .data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ConceptDataset,
    combine,
    load_model,
    load_models,
    open_dataset,
    with_colours,
)
from .dissection import Rotation
from .dissection.conventions import CHOICES, CONVENTIONS
from .dissection.probes import TAILS
from .dissection.recording import named_models
from .dissection.results import REPORT

_WEIGHTS = "state dict to load: .safetensors, or .pt/.pth (no pickled objects)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. What is wrong with the input is said in one line."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"netinterp-fast: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("netinterp-fast: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="netinterp-fast", description="Fast, exact network interpretability.")
    parser.add_argument("--version", action="version", version=f"netinterp-fast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_dissect(commands.add_parser("dissect", help="find which concepts the units of a network detect"))
    _add_merge(commands.add_parser("merge", help="join the shards of a dissection that ran apart"))
    _add_explain(commands.add_parser("explain", help="show which pixels of a photo speak for a class"))
    # No prefix of options: all arguments are the benchmarks' own.
    bench = commands.add_parser("bench", help="measure the kernels and methods here", add_help=False, prefix_chars="\0")
    bench.add_argument("arguments", nargs="*")
    bench.set_defaults(run=_bench)
    doctor = commands.add_parser("doctor", help="say what was built, what is used and why, and how to get the rest")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_dissect(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Dissect the units of a network: which concepts do they detect? Without arguments, a small network that comes "
        "with the package is dissected on painted pictures with exact labels."
    )
    parser.set_defaults(run=_dissect)
    _add_model(parser)
    add = parser.add_argument
    add("--weights", action="append", metavar="FILE", help=f"{_WEIGHTS}. Several are dissected in one read of the data")
    add("--layers", metavar="NAMES", help="comma-separated module names; the demo model has its own default")
    add(
        "--data",
        action="append",
        metavar="DIR",
        help="a labelled data set: a Broden folder; images/, labels/ and classes.csv; or one subfolder of images "
        "a label. Several are joined. Default: demo",
    )
    add("--colours", action="store_true", help="add the category colour: eleven names, computed from the pixels")
    add(
        "--convention",
        choices=CONVENTIONS,
        default="netdissect",
        help="whose scores: the paper's (netdissect, default), or those of other tools",
    )
    add(
        "--quantile",
        type=_numbers,
        metavar="Q,...",
        help="share of values above a unit's threshold, or several (default: the convention's, mostly .005)",
    )
    add(
        "--tail",
        choices=TAILS,
        default="upper",
        help="dissect the largest values of each unit (upper, default), the most negative (lower), or both",
    )
    add(
        "--basis",
        default="units",
        metavar="NAMES",
        help="comma-separated: units (default), rotation (a random one of them), rotation:A (A of the way to it, in "
        "[0, 1])",
    )
    add("--seed", type=int, default=0, metavar="N", help="of whatever is drawn at random (default 0)")
    for name, choices in CHOICES.items():
        add(f"--{name.replace('_', '-')}", choices=choices, help="one switch of the convention")
    add("--inclusive", action="store_true", default=None, help="count values equal to the threshold as above it")
    add("--mask-size", type=int, metavar="N", help="side of the label grid (default: as the data set has it)")
    add("--iou-threshold", type=float, default=0.04, help="a unit is a detector above this IoU (default 0.04)")
    add("--top-images", type=int, default=9, metavar="N", help="images to show for each unit (default 9)")
    add("--batch-size", type=int, default=32, metavar="N")
    add("--num-workers", type=int, default=0, metavar="N", help="processes that load images (default 0: this one)")
    add("--out", metavar="DIR", help="folder for the results (default: dissection-MODEL); it must not hold another run")
    add(
        "--checkpoint-every",
        type=float,
        default=60,
        metavar="SECONDS",
        help="how often the state is saved there; the same command goes on with an interrupted run (default 60)",
    )
    add(
        "--passes",
        choices=("1", "2", "auto"),
        default="auto",
        help="run the model once over the data and keep what the tallies need, or twice; the results are the same "
        "(default auto: once where there is room)",
    )
    add(
        "--memory-budget",
        metavar="SIZE",
        default="1GiB",
        help="memory for what a single pass keeps, such as 512MiB; the rest goes to a file in --out (default 1GiB)",
    )
    add(
        "--null-samples",
        type=int,
        default=0,
        metavar="N",
        help="shuffle the labels among the images N times, for a p-value of each unit (default 0)",
    )
    add(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="draw N samples of the images, for an interval of each unit's IoU (default 0)",
    )
    add(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="do part I of N alone, I from 0 to N - 1, in a folder of its own; see netinterp-fast merge. As a SLURM "
        "array job (sbatch --array=0-9): --shard $SLURM_ARRAY_TASK_ID/10",
    )
    add("--quiet", action="store_true", help="no progress bars")


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Join the shards of a dissection (dissect --shard) into the results of one process. Neither the model nor the "
        "data is needed; the shards may have been copied here from other machines, and are only read."
    )
    parser.set_defaults(run=_merge)
    add = parser.add_argument
    add("shards", nargs="+", metavar="SHARD", help="the folders of all shards, in any order")
    add("--out", required=True, metavar="DIR", help="folder for the results; it must not hold another run")
    add("--device", metavar="NAME", help="where the tallies are computed, for example cuda (default: cpu)")
    add("--quiet", action="store_true", help="no progress bars")


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Explain what a classifier sees in photos: for each a PNG named PHOTO-METHOD.png, the part of the photo that "
        "the model receives beside a heat map, red for pixels that speak for the class and blue for those against it. "
        "All photos are read before the first is explained; a picture once written stays if a later photo fails."
    )
    parser.set_defaults(run=_explain)
    _add_model(parser)
    add = parser.add_argument
    add("--weights", metavar="FILE", help=_WEIGHTS)
    add("images", nargs="+", metavar="IMAGE", help="a JPEG or PNG file; its central square is explained")
    add("--method", choices=METHODS, default="lrp", help="how the pixels are weighed (default: %(default)s)")
    add(
        "--composite",
        metavar="NAME",
        help="the rules of lrp by layer, such as epsilon_plus or epsilon_gamma_box (default: epsilon_plus_flat)",
    )
    add(
        "--target", default="top", metavar="N", help="the class: its index from 0, or top, the largest output (default)"
    )
    add("--labels", metavar="FILE", help="class names, one a line in order; a WordNet id in front is left out")
    add("--out", metavar="DIR", help="folder for the pictures (default: beside the photos)")
    add("--force", action="store_true", help="replace pictures that exist")


def _add_model(parser: argparse.ArgumentParser) -> None:
    """The options that name a model and say what it receives."""
    add = parser.add_argument
    add(
        "--model",
        default="demo",
        metavar="SPEC",
        help="demo (default), torchvision:NAME, or path/to/file.py:FUNCTION, a function that returns the model",
    )
    add("--device", metavar="NAME", help="where the model runs, for example cuda (default: cpu)")
    add("--size", type=int, default=224, help="side of the images that the model receives, in pixels (default 224)")
    add(
        "--mean",
        type=_three_floats,
        default=IMAGENET_MEAN,
        metavar="R,G,B",
        help="normalisation, for RGB in [0, 1] (default: ImageNet's)",
    )
    add("--std", type=_three_floats, default=IMAGENET_STD, metavar="R,G,B")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor several with commas between them") from None


def _shard(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 0/10")
    return int(number), int(of)


def _three_floats(text: str) -> tuple[float, ...]:
    values = _numbers(text)
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three comma-separated numbers")
    return values


def _dissect(options: argparse.Namespace) -> int:
    model = _models(options)
    layers = _layers(options, next(iter(named_models(model).values())))
    dataset = _dataset(options)
    which = "-shard-{}-of-{}".format(*options.shard) if options.shard else ""
    out = Path(options.out or f"dissection-{_plain(options.model)}{which}")
    result = dissect(
        model,
        dataset,
        layers,
        quantile=options.quantile,
        iou_threshold=options.iou_threshold,
        convention=options.convention,
        batch_size=options.batch_size,
        device=options.device,
        num_workers=options.num_workers,
        top_images=options.top_images,
        progress=not options.quiet,
        out=out,
        threshold_from=options.threshold_from,
        upsampling=options.upsampling,
        inclusive=options.inclusive,
        unit_area_over=options.unit_area_over,
        mask_size=options.mask_size,
        checkpoint_every=options.checkpoint_every,
        passes=options.passes if options.passes == "auto" else int(options.passes),
        memory_budget=options.memory_budget,
        null_samples=options.null_samples,
        bootstrap=options.bootstrap,
        seed=options.seed,
        basis=[_basis(name.strip(), options.seed) for name in options.basis.split(",")],
        tail=options.tail,
        shard=options.shard,
    )
    if result is None:
        print(f"shard {options.shard[0]} of {options.shard[1]} is complete: {out.resolve()}")
    elif _is_first_process():
        _tell(result, out)
    return 0


def _merge(options: argparse.Namespace) -> int:
    out = Path(options.out)
    _tell(merge_shards(options.shards, out, device=options.device, progress=not options.quiet), out)
    return 0


def _models(options: argparse.Namespace) -> nn.Module | dict[str, nn.Module]:
    """The model, or one for each of several files of weights."""
    files = options.weights or [None]
    return load_model(options.model, *files) if len(files) == 1 else load_models(options.model, files)


def _is_first_process() -> bool:
    """False in all but one of the processes that torchrun starts."""
    return os.environ.get("RANK", "0") == "0"


def _tell(result: Dissection, out: Path) -> None:
    print(result.summary())
    print(f"\ntables: {(out / 'tables').resolve()}\nreport: {(out / REPORT / 'index.html').resolve()}")


def _explain(options: argparse.Namespace) -> int:
    return explain(options, Preparation(*_input_of(options)))


def _plain(spec: str) -> str:
    """A model's spec as part of a folder's name."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(spec).name)


def _layers(options: argparse.Namespace, model: nn.Module) -> list[str]:
    if options.layers:
        return [name.strip() for name in options.layers.split(",") if name.strip()]
    if options.model == "demo":
        from .demo import DEMO_LAYERS

        return list(DEMO_LAYERS)
    names = [name for name, _ in model.named_modules() if name]
    shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    raise ValueError(f"--layers is needed; the model has {shown}")


def _basis(name: str, seed: int) -> str | Rotation:
    """One of --basis: rotation, rotation:ANGLE, or what `dissect` has to know by its name."""
    kind, _, angle = name.partition(":")
    if kind != "rotation":
        return name
    try:
        return Rotation(float(angle or 1), seed)
    except ValueError as error:
        raise ValueError(f"--basis has {name!r}: {error}") from None


def _dataset(options: argparse.Namespace) -> ConceptDataset:
    if not options.data and options.model != "demo":
        raise ValueError("--data is needed: a folder of labelled images (see --help for the formats)")
    paths = options.data or ["demo"]
    if paths == ["demo"]:
        dataset = _demo_dataset(options)
    else:
        size, mean, std = _input_of(options)
        dataset = combine(*(open_dataset(path, size, mean=mean, std=std) for path in paths))
    if options.colours:
        dataset = with_colours(dataset)
    dataset.title = " + ".join(Path(path).name or path for path in paths)
    return dataset


def _input_of(options: argparse.Namespace) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Size, mean and std of the images that the model expects."""
    if options.model != "demo":
        return options.size, options.mean, options.std
    from .demo import DEMO_MEAN, DEMO_SIZE, DEMO_STD

    return DEMO_SIZE, DEMO_MEAN, DEMO_STD


def _demo_dataset(options: argparse.Namespace) -> ConceptDataset:
    from .demo import DEMO_IMAGES, DEMO_VERSION, write_demo_dataset

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netinterp_fast"
    root = cache / f"demo-{DEMO_VERSION}"
    quiet = options.quiet or root.exists() or not _is_first_process()
    with tqdm(total=DEMO_IMAGES, desc="painting the demo pictures", unit="img", disable=quiet) as bar:
        write_demo_dataset(root, progress=lambda done, total: bar.update(1))
    size, mean, std = _input_of(options)
    return open_dataset(root, size, mean=mean, std=std)


def _bench(options: argparse.Namespace) -> int:
    """`python -m benches`, of the checkout that this package was imported from."""
    checkout = Path(__file__).parents[1]
    if not (checkout / "benches" / "__main__.py").is_file():
        raise ValueError(
            f"the benchmarks come with the source checkout, and {checkout} is none: clone the repository and run "
            "netinterp-fast bench, or python -m benches, from there after pip install -e ."
        )
    python_path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benches", *options.arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": python_path}).returncode


def _doctor(options: argparse.Namespace) -> int:
    info = build_info()
    print(f"netinterp_fast {info['version']} in {info['location']}")
    print(f"python {info['python']}, torch {info['torch']} (CUDA: {info['torch_cuda'] or 'none'})")
    if info["native_cpu"]:
        print(f"CPU kernels: built ({info['compiler']}); using {info['cpu_level']} of {', '.join(info['cpu_levels'])}")
    else:
        print(f"CPU kernels: missing, {info['missing']['cpu']}.")
        print("    ops run on the pure-torch reference, with the same results")
        print("    to get them: install a C++ compiler (Debian: apt-get install g++) and reinstall the package")
    if info["native_cuda"]:
        print("CUDA kernels: built and loaded")
    else:
        print(f"CUDA kernels: missing, {info['missing']['cuda']}.")
        print("    to get them: install a CUDA build of torch and the CUDA toolkit (nvcc), then from a checkout:")
        print("    FORCE_CUDA=1 pip install --no-build-isolation --no-deps .")
    print(f"ops: {', '.join(info['ops'])}")
    print(f"backend: {os.environ.get('NETINTERP_FAST_BACKEND', 'auto')} (NETINTERP_FAST_BACKEND)")
    print(f"CPU level: {_library.cpu_level() or 'none'} (NETINTERP_FAST_CPU)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
