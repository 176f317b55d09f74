"""Segment the images that arrive in a folder, each once."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import Config, absolute_path, is_url, load_config, to_yaml
from pipeline.errors import AlreadyRunning, GigasegError, InputError, Problem, counted
from pipeline.inputs import Arrivals, config_problems
from pipeline.records import RunFolder, hold_run
from pipeline.scheduling import EXIT_INTERRUPTED
from pipeline.storage import LocalStorage, refuse_secrets
from pipeline.system import handle_signals, say
from pipeline.targets import CRON
from workflows.run import refuse_training

__all__ = ["print_schedule", "watch"]

EVERY_S, SETTLE_S = 10.0, 30.0
STEP_S, REMOTE_STEP_S = 0.2, 3.0  # between two looks for the end of a pass and for the stop flag; for the flag in an object store
LOOK_SHARE = 20  # a look that takes long is followed by a pause of so many times its length
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 600.0  # after a pass that could not go on
MOST_LINES = 20  # of what a failed pass said


def watch(
    folder: str,
    config_path: Path,
    overrides: Sequence[str] = (),
    *,
    settle_s: float = SETTLE_S,
    every_s: float = EVERY_S,
    once: bool = False,
    as_json: bool = False,
) -> int:
    """Segment images as they arrive in a folder and stop growing, until a signal or ``gigaseg stop`` comes.

    Masks and report of all images are one growing run in the config's output, whose ledger says what is done: after a restart or
    a crash nothing is done twice, and an image that is replaced is done again. A line on stdout tells of each image.

    Args:
        folder: a folder or a URL that can be listed; it takes the place of ``images`` in the YAML.
        config_path: the YAML of the run.
        overrides: ``key.sub=value`` each, as after ``--set``.
        settle_s: an image is taken when nothing of it has changed for so long, seconds.
        every_s: pause between two looks at the folder, seconds.
        once: take what has settled, and end.
        as_json: print the lines as JSON.

    Returns:
        0: all that was taken is done; 3: done but for what is quarantined; 130: blocks are left, which the next watch does.

    Raises:
        InputError: the folder or the YAML is wrong.
        AlreadyRunning: another process watches for the same output.
        GigasegError: with ``once``, the run could not go on.
    """
    stopped = threading.Event()
    with handle_signals(lambda *_: stopped.set()):
        config = config_of(folder, config_path, overrides)
        arrivals = Arrivals(config, str(config.images[0]), settle_s)
        folder_of_run = RunFolder(config.output)
        with watching(folder_of_run):
            watcher = _Watcher(config, arrivals, folder_of_run, as_json, stopped=stopped)
            with handle_signals(watcher.on_signal):
                return watcher.go_once(settle_s) if once else watcher.go_on(every_s)


def config_of(folder: str, config_path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config of a watch; raises InputError with all that is wrong before an image has arrived."""
    refuse_training(config_path)
    refuse_secrets(folder, "FOLDER")
    folder = folder.rstrip("/") if is_url(folder) else absolute_path(folder, Path.cwd())
    if not is_url(folder) and not Path(folder).is_dir():
        raise InputError(Problem("FOLDER", folder, "a folder that exists, or a URL that can be listed"))
    if folder.lower().startswith(("http://", "https://")):
        raise InputError(Problem("FOLDER", folder, "a folder or a bucket", "A web server does not say which files it has."))
    config = load_config(config_path, [*overrides, f"images={json.dumps([folder])}"])
    if problems := config_problems(config):
        raise InputError(problems)
    return config


def print_schedule(
    schedule: str,
    folder: str,
    config_path: Path,
    overrides: Sequence[str] = (),
    *,
    settle_s: float = SETTLE_S,
    every_s: float = EVERY_S,
    as_json: bool = False,
) -> int:
    """Print the lines that make cron, or Slurm's scrontab, take what has arrived, again and again; return 0.

    The arguments are those of :func:`watch`; the printed command has what differs from the defaults.

    Raises:
        InputError: no schedule that cron reads; or the folder or the YAML is wrong, as for :func:`watch`.
    """
    if not re.fullmatch(CRON, schedule):
        raise InputError(Problem("--schedule", repr(schedule), "minute, hour, day, month and day of the week, such as '0 2 * * *'"))
    (place,) = config_of(folder, config_path, overrides).images
    program = Path(sys.executable).with_name("gigaseg")
    parts = [str(program), "watch", str(place), "--config", str(config_path.absolute()), "--once"]
    parts += [f"--settle={settle_s!r}"] if settle_s != SETTLE_S else []
    parts += [f"--every={every_s!r}"] if every_s != EVERY_S else []
    parts += ["--json"] if as_json else []
    command = shlex.join([*parts, *(part for override in overrides for part in ("--set", override))])
    # cron takes a percent sign for the end of the line.
    cron = f"{schedule} {command}".replace("%", "\\%")
    print("# crontab -e", cron, "", "# scrontab -e", "#SCRON --job-name=gigaseg-watch", f"{schedule} {command}", sep="\n")
    return 0


@contextmanager
def watching(folder: RunFolder) -> Iterator[None]:
    """Be the only watch of an output inside the ``with`` block."""
    storage = folder.watch
    is_new = not folder.storage.exists()
    storage.make()
    try:
        with hold_run(storage):
            yield
    except AlreadyRunning as error:
        found = str(error).partition("found ")[2].partition(";")[0].replace("a run that", "a watch that")
        raise AlreadyRunning(Problem(str(folder.storage), found, "one watch for one output folder", "Stop it, or wait.")) from error
    finally:
        if is_new and folder.storage.exists() and not folder.read():  # no image has come
            folder.storage.delete_tree("ledger")
            folder.storage.remove_if_empty()


@dataclass
class _Watcher:
    """A watch: which images are done, and what it waits for."""

    config: Config
    arrivals: Arrivals
    folder: RunFolder
    as_json: bool
    done: dict[str, Any] = field(default_factory=dict)  # state of each image that was segmented or quarantined, by path
    refused: dict[str, Any] = field(default_factory=dict)  # and of each that no run can take
    stopped: threading.Event = field(default_factory=threading.Event)
    has_left: bool = False  # whether settled images are left that no pass has done
    code: int = 0  # of the last pass that ended
    has_died: bool = False  # whether the last pass was killed, as by an image that crashes a library
    process: subprocess.Popen[bytes] | None = None
    asked_at: float = -1e9  # when the stop flag was looked for, seconds

    def go_on(self, every_s: float) -> int:
        """Look, do what has settled, wait, until asked to stop."""
        pause_s = FIRST_PAUSE_S
        say(f"watching {self.config.images[0]} for {self.folder.storage}", event="watch begins")
        self.folder.forget_stop()
        self.arrivals.look()  # what is wrong with the folder now is for the user to mend
        while not self.stopped.is_set():
            started = time.monotonic()
            try:
                settled = self.look()
                look_s = time.monotonic() - started
                self.take(settled)
            except InputError:
                raise
            except (GigasegError, OSError) as error:
                pause_s = self.back_off(error, pause_s)
            else:
                pause_s = FIRST_PAUSE_S
                self.wait(max(every_s, LOOK_SHARE * look_s))
        return EXIT_INTERRUPTED if self.has_left else self.code

    def go_once(self, settle_s: float) -> int:
        """Take what does not change for a while, and end."""
        self.folder.forget_stop()
        self.arrivals.look()
        if num_images := self.arrivals.num_growing:
            say(f"{counted(num_images, 'image')} found; waiting {settle_s:g} s for changes", event="watch begins")
            self.wait(settle_s)
        if not self.stopped.is_set():
            self.take(self.arrivals.look())
        if growing := self.arrivals.num_growing:
            say(f"{counted(growing, 'image')} still growing: left for the next time", event="images growing")
        return EXIT_INTERRUPTED if self.has_left else self.code

    def look(self) -> dict[str, Any]:
        """Look at the folder; raises GigasegError where that fails, as it may be there again later."""
        try:
            return self.arrivals.look()
        except (GigasegError, OSError) as error:
            folder, why = str(self.config.images[0]), str(error)
            raise GigasegError(why if folder in why else f"{folder}: {why}") from error

    def take(self, settled: dict[str, Any]) -> None:
        """Segment the settled images that are new or have changed, if there are any."""
        known = [path for path, state in settled.items() if self.done.get(path) == state]
        new = [path for path, state in settled.items() if state not in (self.done.get(path), self.refused.get(path))]
        self.has_left = bool(new)
        if not new or self.stopped.is_set():
            return
        try:
            code, refused = self.run_pass(known, new)
        except InputError as error:
            if self.done or error.exit_code != InputError.exit_code:
                raise GigasegError(str(error)) from error  # the same input was right before: it may be again
            raise
        self.has_died = False
        if code == EXIT_INTERRUPTED:
            self.stopped.set()
            return
        self.has_left = False
        self.refused = {path: state for path, state in settled.items() if path in refused or self.refused.get(path) == state}
        self.done = {path: settled[path] for path in (*known, *new) if path not in refused}
        self.code = code or (3 if self.refused else 0)

    def run_pass(self, known: Sequence[str], new: Sequence[str]) -> tuple[int, dict[str, str]]:
        """Run a pass in a process of its own; return its exit code and the images that were refused."""
        with tempfile.TemporaryDirectory(prefix="gigaseg-") as scratch, Path(scratch, "errors").open("w+b") as errors:
            answer = Path(scratch, "answer.json")
            job: dict[str, Any] = {"config": to_yaml(self.config_of_pass()), "origin": f"{scratch}/config.yaml", "known": known, "new": new}
            job |= {"answer": str(answer), "json": self.as_json}
            command = [sys.executable, "-P", "-m", "workflows.watch_pass"]
            self.process = process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors, start_new_session=True)
            assert process.stdin is not None
            try:
                with suppress(BrokenPipeError):  # what it died of is told below
                    process.stdin.write(json.dumps(job).encode() + b"\n")
                    process.stdin.flush()
                self.wait_for_pass(process)
            finally:
                with suppress(BrokenPipeError):
                    process.stdin.close()
                code = process.wait()
                self.process = None
            if code < 0 and self.stopped.is_set():
                code = EXIT_INTERRUPTED
            self.has_died = code < 0
            if code not in (0, 3, EXIT_INTERRUPTED):
                raise error_of(code, errors)
            return code, json.loads(answer.read_text()) if answer.exists() else {}

    def config_of_pass(self) -> Config:
        """Return the config of the next pass: after one that was killed, actors of Ray find the image that kills, and go on."""
        compute = self.config.compute
        if not self.has_died or compute.runner != "auto":
            return self.config
        return self.config.model_copy(update={"compute": compute.model_copy(update={"runner": "ray"})})

    def wait_for_pass(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a pass ends, and pass on what asks it to stop."""
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STEP_S)
                return
            if not self.stopped.is_set() and self.is_asked():  # seen here, as the run forgets the flag when it begins
                self.on_signal()

    def wait(self, seconds: float) -> None:
        """Sleep, and wake when asked to stop."""
        until = time.monotonic() + seconds
        while not self.stopped.is_set() and time.monotonic() < until:
            self.stopped.wait(min(1.0, max(0.0, until - time.monotonic())))
            if self.is_asked():
                self.stopped.set()

    def is_asked(self) -> bool:
        """Whether ``gigaseg stop`` was called, as far as is known now; an object store is asked every few seconds alone."""
        now = time.monotonic()
        if now - self.asked_at >= (0 if isinstance(self.folder.storage, LocalStorage) else REMOTE_STEP_S):
            self.asked_at = now
            with suppress(GigasegError):
                return self.folder.is_asked_to_stop()
        return False

    def back_off(self, error: Exception, pause_s: float) -> float:
        """Tell what went wrong, wait, and return how long to wait the next time."""
        say(f"trying again in {pause_s:.0f} s: {error}", event="watch waits", level="warning")
        self.wait(pause_s)
        return min(2 * pause_s, LONGEST_PAUSE_S)

    def on_signal(self, *_: object) -> None:
        """End after the blocks in flight; a second signal ends at once."""
        self.stopped.set()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


def error_of(code: int, errors: Any) -> GigasegError:
    """Return the error that a failed pass ended with."""
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - (1 << 16)))
    lines = errors.read().decode(errors="replace").splitlines()[-MOST_LINES:]
    text = "\n".join(lines) or f"a pass ended with {code} and said nothing"
    kinds: dict[int, Callable[[str], GigasegError]] = {2: InputError, 4: AlreadyRunning}
    return kinds.get(code, GigasegError)(text)
