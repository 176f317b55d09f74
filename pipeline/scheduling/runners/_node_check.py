"""What an actor finds out about its node before it loads the model: whether the files of the run are there, and the hardware."""

from __future__ import annotations

import platform
import re
import secrets
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.backends import bf16_supported, find_backend
from pipeline.engine import Job
from pipeline.errors import GigasegError, LockLost
from pipeline.inputs import Image
from pipeline.storage import is_fetched, open_storage

__all__ = ["Expected", "NodeReport", "check_node", "expectations", "unseen"]

BF16_CAPABILITY = (8, 0)  # of the first NVIDIA GPUs that compute in bfloat16
MOST_PATHS = 256  # of the images, evenly spread over them: a network share is there or it is not


@dataclass(frozen=True)
class Expected:
    """What every node must have.

    Attributes:
        paths: files and folders to read.
        bf16: whether the processor must compute in bfloat16, as that of the driver does.
    """

    paths: Sequence[str] = ()
    bf16: bool = False


@dataclass(frozen=True)
class NodeReport:
    """What an actor found on its node.

    Attributes:
        node: Ray's id of the node.
        host: name of the machine.
        hardware: the GPU's or processor's name; results of different kinds may differ in the last bits.
        problems: why no block can be done here; one line each.
    """

    node: str
    host: str
    hardware: str
    problems: tuple[str, ...] = ()


def expectations(job: Job, images: Iterable[Image]) -> Expected:
    """Return what every node must have for a run over these images: what is on this machine, and is not at a URL."""
    paths = dict.fromkeys(path for image in images for path in (image.path, image.truth) if path)
    folders = dict.fromkeys(str(Path(path).parent) for path in paths if _is_local(path))
    spread = list(paths)[:: -(-len(paths) // MOST_PATHS) or 1]
    model = [str(path) for path in job.model.files() if not is_fetched(path)] if job.model else []
    bf16 = job.recipe.precision == "bf16" and job.recipe.device == "cpu" and bf16_supported()
    paths_here = [path for path in (*list(folders)[:MOST_PATHS], *spread, *model) if _is_local(path) and Path(path).exists()]
    return Expected(paths_here, bf16)


def check_node(node: str, job: Job, expected: Expected) -> NodeReport:
    """Look at files and hardware of this machine."""
    problems = [f"{path} is not there" for path in unseen(expected.paths)]
    hardware, more = _hardware(job, expected)
    return NodeReport(node, socket.gethostname(), hardware, (*problems, *_output_problems(job), *more))


def unseen(paths: Iterable[str]) -> list[str]:
    """Return the local files and folders that are not there; of a folder that is missing, not the files in it."""
    missing: list[str] = []
    for path in paths:
        if _is_local(path) and not any(path.startswith(f"{folder}/") for folder in missing) and not Path(path).exists():
            missing.append(path)
    return missing


def _is_local(path: str) -> bool:
    return re.match(r"[a-zA-Z][a-zA-Z0-9+]*://", path) is None


def _output_problems(job: Job) -> list[str]:
    """Return why the output cannot be written: the ledger of this run is not in it, or a file cannot be made."""
    storage = open_storage(job.output)
    probe = f".probe-{secrets.token_hex(8)}"
    try:
        storage.put(probe, b"", durable=False)  # the guard of the storage reads the ledger's own file first
    except GigasegError as error:
        told = str(error).removeprefix(f"{storage.url}/{probe}: ").partition(";")[0]
        cause = "the ledger of this run is not in it" if isinstance(error, LockLost) else told
        return [f"the output {storage.url} cannot be used: {cause}"]
    with suppress(GigasegError):
        storage.delete(probe)
    return []


def _hardware(job: Job, expected: Expected) -> tuple[str, list[str]]:
    """Return the name of what computes, and why it cannot run the recipe."""
    recipe, processor = job.recipe, _processor()
    runs_network = job.model is not None and job.model.takes_backend
    problems = [str(one) for one in find_backend(recipe.backend).problems(recipe.device, recipe.precision)] if runs_network else []
    if expected.bf16 and not bf16_supported():
        problems.append(f"{processor} does not compute in bfloat16, which the recipe asks for; use compute.precision: fp32")
    if recipe.device == "cuda":
        import torch

        if torch.cuda.is_available():  # where it is not, the backend says so when it opens
            processor = torch.cuda.get_device_name()
            if recipe.precision == "bf16" and torch.cuda.get_device_capability() < BF16_CAPABILITY:
                problems.append(f"{processor} does not compute in bfloat16, which the recipe asks for; use compute.precision: fp16")
    return processor, problems


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of this machine's processor."""
    with suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="ascii", errors="replace"), re.MULTILINE):
            return found[1]
    return platform.machine()
