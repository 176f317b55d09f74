"""Damage small files of every format at random and read them, in processes of bounded memory and time.

``python -m tests.faults.fuzz_readers 10000 --seed 1`` prints what does not end in pixels or in an error of ours, with the number of the
try; ``--only NUMBER --folder FOLDER`` repeats a single try and keeps its file. A try depends on the seed, its number and the samples,
which lie in the folder.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.readers.sample_files import SAMPLES, scene

ADDRESS_BYTES = 6 << 30  # libraries reserve about 2 GiB before the first file
MORE_BYTES = 256 << 20  # what one try may take beside what the process holds already; its images have 100 kB
TIME_S = 60  # of one try, which is ended then; the slowest format needs 0.1 on an idle machine
SLOW_S = 8  # of the processor in one try, which is told
BATCH = 250  # tries of a process: what a library keeps from one file to the next is seen, and memory does not add up for ever
OPTIONS: Sequence[dict[str, Any]] = ({}, {}, {"level": 1}, {"series": 1}, {"series": "all"}, {"palette": "index"}, {"channels": [1]})
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 10**9, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Change bytes, mostly near the beginning or the end, where most formats keep what they say of themselves."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        if not data:
            break
        reach = min(len(data), 2000)
        place = rng.choice([rng.randrange(len(data)), rng.randrange(reach), len(data) - 1 - rng.randrange(reach)])
        kind = rng.choice(["flip", "flip", "byte", "number", "number", "insert", "delete", "repeat", "cut"])
        if kind == "flip":
            data[place] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            data[place] = rng.randrange(256)
        elif kind == "number":
            size = rng.choice([2, 4, 8])
            data[place : place + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, rng.choice(["little", "big"]))
        elif kind == "insert":
            data[place:place] = rng.randbytes(rng.choice([1, 2, 4, 100]))
        elif kind == "delete":
            del data[place : place + rng.choice([1, 2, 4, 100])]
        elif kind == "repeat":
            data[place:place] = data[place : place + rng.choice([1, 8, 200])] * rng.choice([1, 1, 50])
        elif rng.random() < 0.3:
            del data[place:]
    return bytes(data)


def prepare(samples: Path, seed: int, number: int, folder: Path) -> tuple[Path, dict[str, Any], str]:
    """Copy a sample and damage one of its files; return the path to open, the options, and what was done."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice([path.name for path in sorted(samples.iterdir())])
    shutil.copytree(samples / name, folder)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    metadata = [file for file in files if file.suffix in (".json", ".ini") or file.name.startswith(".z")]
    target = rng.choice(metadata) if metadata and rng.random() < 0.5 else rng.choice(files)
    content = target.read_bytes()
    for _ in range(20):
        changed = damaged(content, rng)
        if changed != content:
            break
    target.write_bytes(changed)
    return folder / SAMPLES[name].file, rng.choice(OPTIONS), f"{name}: {target.relative_to(folder)}"


def read(path: Path, options: dict[str, Any], name: str = "auto") -> str:
    """Open a path and its members, read corners of their planes; return how it ended. Whatever else is raised is a finding."""
    import numpy as np

    from pipeline.errors import BlockError, InputError
    from pipeline.geometry import Box
    from pipeline.plugins import build

    def look(reader: Any, path: str) -> None:
        with reader.open(path) as raster:
            header = raster.header
            height, width = header.shape
            assert header.channels > 0, header
            assert header.bits <= 8 * np.dtype(header.dtype).itemsize, header
            assert header.pixel_size is None or all(0 < side < float("inf") for side in header.pixel_size), header
            for y, x in ((0, 0), (height - 1, width - 1)):
                box = Box(y, x, y + 150, x + 150).clip((height, width))
                for plane in range(min(header.num_planes, 2)):
                    pixels, valid = raster.read_valid(box, plane)
                    assert pixels.shape == (header.channels, *box.shape), (pixels.shape, header)
                    assert pixels.dtype == header.dtype, (pixels.dtype, header)
                    assert valid is None or valid.shape == box.shape

    reader = build("readers", {"name": name, **options})
    try:
        reader.companions(str(path))
        members = reader.members(str(path))
        if members:
            for member in members[:2]:
                look(build("readers", {"name": name, **options, **member.options}), member.path)
        else:
            look(reader, str(path))
    except (InputError, BlockError) as error:
        if str(path) not in str(error):
            raise AssertionError("the message does not name the file") from error
        return type(error).__name__
    except OSError as error:
        if not error.errno:
            raise AssertionError("it is no failure of the system") from error
        return "OSError"
    return "read"


def child(samples: Path, seed: int, numbers: Sequence[int], scratch: Path, reader: str = "auto", time_s: int = TIME_S) -> None:
    """Try each number and print one line before and one after it; the alarm ends the process where a try does not."""
    warnings.simplefilter("ignore")
    import imagecodecs
    import nd2
    import openslide
    import tifffile
    import wsidicom
    import zarr

    assert all((imagecodecs, nd2, openslide, tifffile, wsidicom, zarr))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    for number in numbers:
        folder = scratch / str(number)
        path, options, what = prepare(samples, seed, number, folder)
        print(json.dumps({"number": number, "what": what, "options": options}), flush=True)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak to what is held now
        before, start, used = _peak_bytes(), time.monotonic(), time.process_time()
        signal.alarm(time_s)
        finding = ""
        try:
            outcome = read(path, options, reader)
        except BaseException:  # noqa: BLE001 - whatever it is, it is what this looks for
            outcome, finding = "finding", traceback.format_exc()
        signal.alarm(0)
        more = _peak_bytes() - before
        if more > MORE_BYTES:
            finding += f"took {more >> 20} MiB"
        if (seconds := time.process_time() - used) > SLOW_S:
            finding += f"took {seconds:.0f} s of the processor"
        row = {"outcome": outcome, "seconds": time.monotonic() - start, "megabytes": more >> 20, "finding": finding}
        print(json.dumps(row), flush=True)
        if not finding and len(numbers) > 1:
            shutil.rmtree(folder)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@dataclass
class Report:
    """What a number of tries came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of the slowest try
    megabytes: int = 0  # more than before, of the try that took most


def fuzz(tries: int, seed: int, folder: Path, first: int = 0, reader: str = "auto", time_s: int = TIME_S) -> Report:
    """Write the samples into a folder and try; a process that dies is followed by another, which goes on after it."""
    samples = folder / "samples"
    for name, sample in SAMPLES.items():
        if not (samples / name).exists():
            sample.make(samples / name, scene(128, 256))
    report, number = Report(), first
    while number < first + tries:
        batch = range(number, min(number + BATCH, first + tries))
        arguments = [str(samples), str(seed), f"{batch.start}-{batch.stop}", str(folder / "scratch"), reader, str(time_s)]
        command = [sys.executable, "-m", "tests.faults.fuzz_readers", "--child", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BATCH * TIME_S, check=False)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
        for about, end in zip(rows[::2], rows[1::2], strict=False):
            report.outcomes[end["outcome"]] += 1
            report.seconds, report.megabytes = max(report.seconds, end["seconds"]), max(report.megabytes, end["megabytes"])
            if end["finding"]:
                report.findings.append(f"try {about['number']}, {about['what']} {about['options']}\n{end['finding']}")
        number = batch.start + len(rows) // 2
        if number < batch.stop:
            if len(rows) % 2 == 0:
                raise RuntimeError(f"the process ended between two tries: {done.stderr[-3000:]}")
            how = "took too long" if done.returncode == -signal.SIGALRM else f"ended the process with {done.returncode}"
            report.findings.append(f"try {number}, {rows[-1]['what']} {rows[-1]['options']}\n{how}: {done.stderr[-1500:]}")
            report.outcomes["finding"] += 1
            number += 1
    return report


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tries", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--only", type=int, help="repeat this try in this process")
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where samples and findings lie")
    arguments = parser.parse_args()
    if arguments.child:
        samples, seed, numbers, scratch, reader, time_s = arguments.child
        child(Path(samples), int(seed), range(*map(int, numbers.split("-"))), Path(scratch), reader, int(time_s))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    if arguments.only is not None:
        fuzz(0, arguments.seed, folder)
        child(folder / "samples", arguments.seed, [arguments.only], folder / "only")
        return
    sys.exit(_told(arguments, folder))


def _told(arguments: argparse.Namespace, folder: Path) -> int:
    """Try, print, and return the exit status."""
    start = time.monotonic()
    report = fuzz(arguments.tries, arguments.seed, folder, arguments.first)
    for finding in report.findings:
        print(finding, end="\n\n")
    print(f"{arguments.tries} tries in {time.monotonic() - start:.0f} s, seed {arguments.seed}: {dict(report.outcomes)}")
    print(f"slowest {report.seconds:.1f} s, most memory {report.megabytes} MiB; samples and findings in {folder}")
    return int(bool(report.findings))


if __name__ == "__main__":
    main()
