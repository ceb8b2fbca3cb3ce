"""The results file: one a device, with each family's figures and when, with what and how they were measured."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import tempfile
from pathlib import Path

import torch

import netinterp_fast

from .family import PEERS, peer_version

RESULTS = Path(__file__).parent / "results"
# What is known of the CUDA kernels without a GPU.
CHECKED = ["compiles for sm_80, sm_90, sm_100", "agrees with the reference on emulated threads"]


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return " ".join(filter(None, [_cpu_name(), netinterp_fast.build_info()["cpu_level"]]))


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def slug(device: torch.device) -> str:
    """Such as cpu-amd-epyc-avx512."""
    words = re.findall(r"[a-z0-9]+", f"{device.type} {device_name(device)}".lower())
    return "-".join(words)


def environment(device: torch.device) -> dict:
    """What figures are measured on and with; None for a peer that is not installed."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "cpu_level": netinterp_fast.build_info()["cpu_level"],
        "device": "cpu" if device.type == "cpu" else device_name(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "netinterp_fast": netinterp_fast.__version__,
    } | {peer: peer_version(peer) for peer in PEERS}


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def replace_family(path: Path, device: torch.device, family: str, about: dict, parts: dict, keep: bool = False) -> None:
    """Put a family's parts in place of those that the file has, with what is known `about` their measuring; with `keep`
    beside its parts of other names, and what is about these alone under "later". Other families stay. The file is
    replaced whole or, where writing fails, left as it was."""
    families = load(path)["families"] if path.exists() else {}
    before = families.get(family) if keep else None
    if before:
        later = before.get("later", {}) | dict.fromkeys(parts, about)
        families[family] = before | parts | {"later": later}
    else:
        families[family] = about | parts
    on_gpu = device.type == "cuda"
    write(path, {
        "device": device_name(device),
        "cuda": {"run": True} if on_gpu else {"run": False, "checked": CHECKED},
        "families": families,
    })  # fmt: skip


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8") as file:
        try:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
