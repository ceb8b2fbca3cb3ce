"""Compiles every csrc/cuda/*.cu for the supported GPUs, without a GPU, and checks what each kernel takes.

    python tests/cuda/compile_check.py

needs nvcc and any build of torch (for its headers). Prints one table; exits with 1 where a file does not
compile without warnings, a kernel spills or exceeds its limit, nvcc is missing, or there is no .cu file.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
ARCHITECTURES = (80, 90, 100)
COMPILES_AT_ONCE = 2

# A thread. A multiprocessor has 65,536 registers: five blocks of 256 threads then run at a time (kMinBlocks).
MAX_REGISTERS = 48
MAX_SHARED_BYTES = 6 * 1024  # of static shared memory, a block


@dataclass(frozen=True)
class KernelUse:
    """What ptxas says that one kernel takes on one architecture; all instances of a template apart."""

    kernel: str
    architecture: int
    registers: int
    spilled_bytes: int
    shared_bytes: int


def parse_ptxas(log: str) -> list[KernelUse]:
    """The kernels in what `nvcc -Xptxas -v` printed; ValueError where an entry has no numbers."""
    uses = []
    for entry in log.split("Compiling entry function ")[1:]:
        head = re.match(r"'(\w+)' for 'sm_(\d+)\w*'", entry)
        registers = re.search(r"Used (\d+) registers", entry)
        if head is None or registers is None:
            raise ValueError(f"not understood in the output of ptxas: {entry.splitlines()[0]}")
        spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", entry)
        shared = re.search(r"(\d+) bytes smem", entry)
        uses.append(
            KernelUse(
                base_name(head[1]),
                int(head[2]),
                int(registers[1]),
                sum(map(int, spills)),
                int(shared[1]) if shared else 0,
            )
        )
    return uses


def base_name(mangled: str) -> str:
    """The function's own name in an Itanium-mangled one: "_ZN3foo3barIfEvv" gives "bar"."""
    name, rest = mangled, mangled.removeprefix("_Z").removeprefix("N")
    while length := re.match(r"\d+", rest):
        end = length.end() + int(length[0])
        name, rest = rest[length.end() : end], rest[end:]
    return name


def exceeded(use: KernelUse) -> list[str]:
    """Which limits a kernel breaks, in words."""
    limits = [
        ("registers", use.registers, MAX_REGISTERS),
        ("bytes spilled", use.spilled_bytes, 0),
        ("bytes of shared memory", use.shared_bytes, MAX_SHARED_BYTES),
    ]
    return [f"{value} {what}, at most {limit} allowed" for what, value, limit in limits if value > limit]


def table(uses: list[KernelUse]) -> str:
    """One row for each kernel and architecture: the most that any instance of it takes."""
    columns = "{:24}{:>8}{:>11}{:>11}{:>9}{:>8}"
    rows = [columns.format("kernel", "arch", "instances", "registers", "spilled", "shared")]
    for kernel, architecture in sorted({(use.kernel, use.architecture) for use in uses}):
        same = [use for use in uses if (use.kernel, use.architecture) == (kernel, architecture)]
        registers = max(use.registers for use in same)
        spilled = max(use.spilled_bytes for use in same)
        shared = max(use.shared_bytes for use in same)
        rows.append(columns.format(kernel, f"sm_{architecture}", len(same), registers, spilled, shared))
    return "\n".join(rows)


def compile_command(nvcc: str, source: Path, output: Path) -> list[str]:
    torch_headers = Path(importlib.util.find_spec("torch").origin).parent / "include"
    generate = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    return [
        *(nvcc, "-std=c++17", "-O3", "--fmad=false", *generate),
        *("-Werror", "all-warnings", "-Xptxas", "-v,--warn-on-spills"),
        *("-Xcompiler", "-fPIC,-fvisibility=hidden"),
        *("-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-isystem", str(torch_headers)),
        *("-c", str(source), "-o", str(output)),
    ]


def main() -> int:
    nvcc, sources = shutil.which("nvcc"), sorted(SOURCES.glob("*.cu"))
    if nvcc is None or not sources:
        print("nvcc is not on the PATH" if nvcc is None else f"there is no .cu file in {SOURCES}")
        return 1

    with tempfile.TemporaryDirectory() as folder:

        def compile_one(source: Path) -> subprocess.CompletedProcess:
            command = compile_command(nvcc, source, Path(folder) / f"{source.stem}.o")
            return subprocess.run(command, capture_output=True, text=True)

        with ThreadPoolExecutor(COMPILES_AT_ONCE) as pool:
            results = list(pool.map(compile_one, sources))

    complaints, uses = [], []
    for source, result in zip(sources, results, strict=True):
        log = result.stdout + result.stderr
        if result.returncode != 0:
            complaints.append(f"{source.name} does not compile:\n{log}")
            continue
        found = parse_ptxas(log)
        uses += found
        for use in found:
            complaints += [f"{source.name}: {use.kernel} on sm_{use.architecture}: {c}" for c in exceeded(use)]
        missing = set(ARCHITECTURES) - {use.architecture for use in found}
        complaints += [f"{source.name}: no kernel for sm_{architecture}" for architecture in sorted(missing)]
    print(table(uses))
    print(f"limits: {MAX_REGISTERS} registers, 0 bytes spilled, {MAX_SHARED_BYTES} bytes shared")
    for complaint in dict.fromkeys(complaints):
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
