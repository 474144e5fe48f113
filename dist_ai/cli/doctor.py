"""`dist-ai doctor`: what this machine offers for training, and how to mend what is missing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dist_ai.errors import DistAIError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["doctor"]

# Those with a line of their own; the others share one.
NAMED = ("torch", "torchvision", "accelerate", "ray", "tensorboard")
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        what: what was looked at.
        status: "missing" is what must be mended before training works, or what is absent and need not be there.
        found: what is there.
        fix: the command or the setting that mends it, or "".
        required: True if dist_ai does not work without it.
    """

    what: str
    status: Literal["ok", "warning", "missing"]
    found: str
    fix: str = ""
    required: bool = False


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Shows what this machine offers for training, tries two processes, and says how to mend what is missing.

    Exit code 1 if something is missing that dist_ai needs.
    """
    terminal = sys.stdout.isatty() and not as_json
    with _busy() if terminal else contextlib.nullcontext():
        findings = [finding for check in CHECKS for finding in _findings(check)]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    elif terminal:
        _print_table(findings)
    else:
        _print_lines(findings)
    if any(finding.status == "missing" and finding.required for finding in findings):
        raise typer.Exit(1)


def _findings(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # a doctor that falls ill helps nobody: the rest of the report is still wanted
        name = check.__name__.removeprefix("_").replace("_", " ")
        return [Finding(what=name, status="warning", found=f"{type(error).__name__}: {error}")]


# ------------------------------------------------------------------------------------ the report


def _busy() -> contextlib.AbstractContextManager[object]:
    from rich.console import Console

    return Console().status("looking at this machine, and trying two processes")


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warning": "yellow", "missing": "red"}
    table = Table(box=None, header_style="bold")
    for title in ("", "what", "found", "how to mend it"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        # Text, because a version range in brackets would be taken for markup.
        status = Text(finding.status, style=colours[finding.status])
        table.add_row(status, Text(finding.what), Text(finding.found), Text(finding.fix))
    Console().print(table)


def _print_lines(findings: list[Finding]) -> None:
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        print(f"{finding.status:<8} {finding.what:<{width}}  {finding.found}")
        if finding.fix:
            print(f"{'':<8} {'':<{width}}  -> {finding.fix}")


# ------------------------------------------------------------------------------------ the libraries


def _python() -> Iterator[Finding]:
    found, needed = platform.python_version(), ">=3.11"
    fits = sys.version_info >= (3, 11)
    yield Finding(
        what="Python",
        status="ok" if fits else "missing",
        found=f"{found} (needs {needed})",
        fix="" if fits else "install Python 3.11 or newer",
        required=True,
    )


def _libraries() -> Iterator[Finding]:
    requirements = _requirements()
    for name in NAMED:
        yield _library(name, requirements.get(name))
    others = [_library(name, requirement) for name, requirement in requirements.items() if name not in NAMED]
    bad = [finding for finding in others if finding.status != "ok"]
    yield from bad
    if not bad:
        yield Finding(what="other libraries", status="ok", found=f"all {len(others)} installed", required=True)


def _library(name: str, requirement: Requirement | None) -> Finding:
    needs = str(requirement.specifier) if requirement else ""
    command = f"pip install '{requirement or name}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(what=name, status="missing", found=f"not installed (needs {needs})", fix=command, required=True)
    if requirement is not None and not requirement.specifier.contains(version, prereleases=True):
        return Finding(
            what=name, status="missing", found=f"{version} (needs {needs})", fix=f"{command} --upgrade", required=True
        )
    return Finding(what=name, status="ok", found=f"{version} (needs {needs})" if needs else version, required=True)


def _requirements() -> dict[str, Requirement]:
    """Returns what this package's metadata requires, by name; from a source tree, what pyproject.toml says."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("dist_ai") or []
    except importlib.metadata.PackageNotFoundError:
        import tomllib

        project = Path(__file__).parents[2] / "pyproject.toml"
        lines = tomllib.loads(project.read_text())["project"]["dependencies"]
    found = [Requirement(line) for line in lines]
    return {item.name: item for item in found if item.marker is None or item.marker.evaluate({"extra": ""})}


# ------------------------------------------------------------------------------------ the devices


def _gpus() -> Iterator[Finding]:
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found = f"{name}, {total / GIB:.0f} GiB, {free / GIB:.0f} GiB free"
        low = free < 0.5 * total
        yield Finding(
            what=f"GPU {index}",
            status="warning" if low else "ok",
            found=found,
            fix="another program holds it: see nvidia-smi" if low else "",
        )
    if torch.cuda.device_count():
        return
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
        yield Finding(
            what="GPU",
            status="warning",
            found=f"an NVIDIA driver is here, but torch (built for {built_for}) sees no GPU",
            fix="see nvidia-smi; unset CUDA_VISIBLE_DEVICES; install a torch build for the driver's CUDA: pytorch.org",
        )
    else:
        yield Finding(what="GPU", status="ok", found="none: training runs on the CPU")


def _backends() -> Iterator[Finding]:
    import torch
    import torch.distributed as dist

    gloo = dist.is_available() and dist.is_gloo_available()
    yield Finding(
        what="gloo",
        status="ok" if gloo else "missing",
        found="available" if gloo else "not in this torch build",
        fix="" if gloo else "pip install torch --force-reinstall",
        required=True,
    )
    if dist.is_available() and dist.is_nccl_available():
        version = ".".join(str(part) for part in torch.cuda.nccl.version())
        yield Finding(what="NCCL", status="ok", found=version)
    elif torch.cuda.device_count() > 1:
        yield Finding(
            what="NCCL",
            status="missing",
            found="not in this torch build, and several GPUs need it",
            fix="install a torch build for CUDA on Linux: pytorch.org",
            required=True,
        )
    else:
        yield Finding(what="NCCL", status="ok", found="none, and none needed without several GPUs")


def _ray_cluster() -> Iterator[Finding]:
    from dist_ai.distributed.launchers.ray import cluster_here

    address = os.environ.get("RAY_ADDRESS")
    if address:
        yield Finding(what="Ray cluster", status="ok", found=f"RAY_ADDRESS={address}")
        return
    here = cluster_here()
    found = f"one answers at {here}" if here else "none here: --engine ray starts one for its run"
    yield Finding(what="Ray cluster", status="ok", found=found)


# ------------------------------------------------------------------------------------ the machine


def _cores() -> Iterator[Finding]:
    from dist_ai.distributed.launchers.machine import allowed_cores

    allowed, installed = allowed_cores(), os.cpu_count() or 1
    # A container's quota, unlike a set of cores, is not seen by torch, which then starts a thread for each core.
    held_back = allowed < installed and allowed < _seen_cores() and "OMP_NUM_THREADS" not in os.environ
    yield Finding(
        what="CPU cores",
        status="warning" if held_back else "ok",
        found=f"{allowed:g}" + (f" of {installed} may be used" if allowed < installed else ""),
        fix=f"without `dist-ai launch`: export OMP_NUM_THREADS={max(1, int(allowed))}" if held_back else "",
    )


def _memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_number("memory.max")
    usable = min(total, limit) if limit else total
    low = usable < 4 * GIB
    found = f"{usable / GIB:.1f} GiB" + (f" (this container's share of {total / GIB:.0f})" if usable < total else "")
    yield Finding(
        what="memory",
        status="warning" if low else "ok",
        found=found,
        fix="use few loader workers and a small bs" if low else "",
    )


def _shared_memory() -> Iterator[Finding]:
    if not Path("/dev/shm").is_dir():
        return  # not Linux: loader workers use something else
    usage = shutil.disk_usage("/dev/shm")
    low = usage.free < GIB
    yield Finding(
        what="/dev/shm",
        status="warning" if low else "ok",
        found=f"{usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB free",
        fix="loader workers pass batches there: docker run --shm-size=8g (or --ipc=host)" if low else "",
    )


def _disk() -> Iterator[Finding]:
    usage = shutil.disk_usage(Path.cwd())
    low = usage.free < 5 * GIB
    yield Finding(
        what="disk here",
        status="warning" if low else "ok",
        found=f"{usage.free / GIB:.1f} of {usage.total / GIB:.0f} GiB free in {Path.cwd()}",
        fix="checkpoints need room: choose another --run-dir" if low else "",
    )


def _open_files() -> Iterator[Finding]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = 0 <= soft < 4096 and 0 <= hard < 4096
    yield Finding(
        what="open files",
        status="warning" if low else "ok",
        found="no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}",
        fix="ulimit -n 65536" if low else "",
    )


def _threads() -> Iterator[Finding]:
    from dist_ai.distributed.launchers.machine import allowed_cores

    asked, cores = os.environ.get("OMP_NUM_THREADS"), allowed_cores()
    if asked is None:
        share = "not set: a worker of `dist-ai launch` gets its share of the cores"
        yield Finding(what="OMP_NUM_THREADS", status="ok", found=share)
    elif asked.isdigit() and 0 < int(asked) <= cores:
        yield Finding(what="OMP_NUM_THREADS", status="ok", found=f"{asked}, for each worker")
    else:
        yield Finding(
            what="OMP_NUM_THREADS",
            status="warning",
            found=f"{asked!r}, with {cores:g} cores",
            fix="unset OMP_NUM_THREADS",
        )


def _two_processes() -> Iterator[Finding]:
    from dist_ai.distributed import launchers

    selftest = Path(launchers.__file__).with_name("selftest.py")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            launchers.launch(selftest, workers=2, device="cpu", timeout_s=60, run_dir=folder)
        except DistAIError as error:
            reason = str(error).split("\n", 1)[0]
            yield Finding(
                what="two processes",
                status="missing",
                found=f"their all_reduce failed: {reason}",
                fix=f"dist-ai launch {selftest} --workers 2 shows more",
                required=True,
            )
            return
    yield Finding(
        what="two processes",
        status="ok",
        found=f"met and exchanged in {time.monotonic() - started:.1f} s",
        required=True,
    )


def _seen_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_number(name: str) -> int | None:
    try:
        return int(Path("/sys/fs/cgroup", name).read_text())
    except (OSError, ValueError):  # no such limit, or "max"
        return None


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _libraries,
    _gpus,
    _backends,
    _ray_cluster,
    _cores,
    _memory,
    _shared_memory,
    _disk,
    _open_files,
    _threads,
    _two_processes,
)
