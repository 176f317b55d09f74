"""The command line: what each command passes to its workflow, and the exit code and messages of each way to end."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from pipeline import __version__
from pipeline.cli import main
from pipeline.errors import GigasegError, InputError, Problem, StoreError
from pipeline.records import RunFolder
from workflows.run import advice

ROOT = Path(__file__).parents[1]
COMMANDS = ("run", "segment", "plan", "status", "retry", "report", "compare", "stop", "evaluate", "convert", "submit")
FLAGS = dict.fromkeys(("address", "nodes", "gpus_per_node", "time", "partition", "array", "schedule", "image"))
RUN = {"fresh": False, "take_over": False, "max_failed": None, "queues": True, "metrics_port": None, "metrics_host": "127.0.0.1"}
COMMAND = [sys.executable, "-m", "pipeline.cli"]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace every workflow by a recorder that returns the exit code 3."""
    calls: list[Any] = []

    def workflow(name: str) -> Any:
        def record(*arguments: Any, **options: Any) -> int:
            calls.append((name, *arguments, options))
            return 3

        return record

    for name in COMMANDS:
        monkeypatch.setattr(import_module(f"workflows.{name}"), name, workflow(name))
    return calls


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make `gigaseg run` end with a given exception."""

    def arrange(error: BaseException) -> None:
        def run(*_arguments: Any, **_options: Any) -> int:
            raise error

        monkeypatch.setattr("workflows.run.run", run)
        monkeypatch.delenv("GIGASEG_DEBUG", raising=False)

    return arrange


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("run c.yaml", ("run", Path("c.yaml"), [], RUN)),
        (
            "run c.yaml --set a.b=1 --set c=2 --fresh --take-over --max-failed 5 --no-queue",
            ("run", Path("c.yaml"), ["a.b=1", "c=2"], {**RUN, "fresh": True, "take_over": True, "max_failed": 5, "queues": False}),
        ),
        (
            "run c.yaml --metrics-port 9100 --metrics-host 10.0.0.5",
            ("run", Path("c.yaml"), [], {**RUN, "metrics_port": 9100, "metrics_host": "10.0.0.5"}),
        ),
        (
            "segment a.tif b/ --model unet -o out",
            ("segment", ["a.tif", "b/"], "unet", "out", [], {"instances": False, "mosaic": None, "fresh": False, "take_over": False}),
        ),
        (
            "segment a.tif -m unet -o out --instances --set a.b=1 --fresh --take-over",
            ("segment", ["a.tif"], "unet", "out", ["a.b=1"], {"instances": True, "mosaic": None, "fresh": True, "take_over": True}),
        ),
        ("plan c.yaml --json", ("plan", Path("c.yaml"), [], {"as_json": True, "every": False})),
        ("plan c.yaml --list", ("plan", Path("c.yaml"), [], {"as_json": False, "every": True})),
        ("status out", ("status", "out", {"as_json": False, "watch": False, "every": None})),
        ("status out --watch --every 5 --json", ("status", "out", {"as_json": True, "watch": True, "every": 5.0})),
        ("retry out", ("retry", "out", None, {})),
        ("retry out --block a:0.1.2", ("retry", "out", "a:0.1.2", {})),
        ("report out", ("report", "out", {})),
        ("report out other", ("compare", "out", "other", None, {"as_json": False})),
        ("report out other -o c --json", ("compare", "out", "other", "c", {"as_json": True})),
        ("stop out", ("stop", "out", {})),
        ("evaluate --pred p --truth t -o s", ("evaluate", "p", "t", None, None, "s", {"instances": False, "change": False})),
        (
            "evaluate --instances --pred p --truth t --classes c.yaml --ignore 9 -o s",
            ("evaluate", "p", "t", Path("c.yaml"), "9", "s", {"instances": True, "change": False}),
        ),
        ("convert a.tif -o out --set reader.axes=zyx", ("convert", ["a.tif"], "out", ["reader.axes=zyx"], {})),
        (
            "submit c.yaml --to ray --address http://head:8265 --wait",
            (
                "submit",
                Path("c.yaml"),
                [],
                {"to": "ray", "flags": FLAGS | {"address": "http://head:8265"}, "options": None, "action": "wait"},
            ),
        ),
        (
            "submit c.yaml --to slurm --nodes 2 --gpus-per-node 4 --time 1:00 --partition p --options o.yaml --dry-run --set a=1",
            (
                "submit",
                Path("c.yaml"),
                ["a=1"],
                {
                    "to": "slurm",
                    "flags": FLAGS | {"nodes": 2, "gpus_per_node": 4, "time": "1:00", "partition": "p"},
                    "options": Path("o.yaml"),
                    "action": "dry_run",
                },
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arguments_reach_the_workflow(line: str, call: tuple[Any, ...], called: list[Any]) -> None:
    """Each command calls one workflow with what was typed, and ends with its exit code."""
    assert main(line.split()) == 3
    assert called == [call]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("run c.yaml --metrics-host 10.0.0.5", "--metrics-host: found 10.0.0.5 without --metrics-port"),
        ("status out --every 5", "--every: found 5.0 without --watch"),
        ("report out -o c", "--output: found c without OTHER"),
        ("report out --json", "--json: found True without OTHER"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(
    line: str, told: str, called: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the option that it needs; nothing is started."""
    assert main(line.split()) == 2
    assert not called
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["", "nope", "run", "run c.yaml --sett a=1", "run c.yaml --max-failed -1", "segment a.tif -o out", "evaluate --pred p -o s"]
)
def test_wrong_usage_is_the_users(line: str, called: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage ends with 2 and a message on stderr, and starts nothing."""
    assert main(line.split()) == 2
    assert not called
    shown = capsys.readouterr()
    assert "Usage: gigaseg" in shown.err + shown.out
    assert "Traceback" not in shown.err


def test_every_problem_is_shown_at_once(fails: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong input ends with 2 and one line a problem."""
    fails(InputError([Problem("c.yaml:3: model.name", "'treshold'", "unet"), "two"]))
    assert main(["run", "c.yaml"]) == 2
    assert capsys.readouterr() == ("", "gigaseg: c.yaml:3: model.name: found 'treshold'; expected unet\ngigaseg: two\n")


@pytest.mark.parametrize("error", [GigasegError("no actor lives"), StoreError("no space left")], ids=repr)
def test_a_run_that_could_not_go_on_ends_with_1(error: GigasegError, fails: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that is not the user's mistake ends with 1, in one line."""
    fails(error)
    assert main(["run", "c.yaml"]) == 1
    assert capsys.readouterr().err == f"gigaseg: {error}\n"


def test_an_unexpected_error_says_where_to_look(fails: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """An unexpected exception ends with 1, without a traceback, with the note that says where the log is."""
    error = ZeroDivisionError("division by zero")
    error.add_note("log: runs/demo/log.txt")
    fails(error)
    assert main(["run", "c.yaml"]) == 1
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in shown
    assert "log: runs/demo/log.txt" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("error", "exit_code"), [(ZeroDivisionError("by zero"), 1), (StoreError("no space left"), 1), (InputError(["no image"]), 2)], ids=repr
)
def test_debug_shows_the_traceback(
    error: Exception, exit_code: int, fails: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIGASEG_DEBUG shows where an error came from, and the command ends as it does without."""
    fails(error)
    monkeypatch.setenv("GIGASEG_DEBUG", "1")
    assert main(["run", "c.yaml"]) == exit_code
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert f"{type(error).__name__}: {error}" in shown


def test_an_interrupt_ends_with_130(fails: Any) -> None:
    """Ctrl-C ends with 130: run again to resume."""
    fails(KeyboardInterrupt())
    assert main(["run", "c.yaml"]) == 130


def test_a_closed_pipe_prints_nothing() -> None:
    """`gigaseg models --json | head -0` says nothing on stderr."""
    with subprocess.Popen([*COMMAND, "models", "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version of the package and ends."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gigaseg {__version__}\n"


def test_models_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a model: its name and the first line of its docstring; the same for machines with the options."""
    from pipeline.models.histogram import HistogramThreshold

    assert main(["models"]) == 0
    assert f"{(HistogramThreshold.__doc__ or '').splitlines()[0]} [" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    histogram = next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "histogram")
    assert histogram["options"]["classes"]["default"] == 2


def test_bundles_are_listed_with_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle on GIGASEG_MODELS is listed among the models; a damaged one stands there with what is wrong."""
    whole = {"format": "gigaseg.bundle/1", "architecture": {"name": "unet"}, "weights": {"sha256": "0" * 64}}
    for name, spec in {"whole": {**whole, "classes": [{"name": "sky"}, {"name": "roof"}]}, "torn": whole}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    monkeypatch.setenv("GIGASEG_MODELS", str(tmp_path))
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["whole"]["summary"] == "bundle of unet: sky, roof"
    assert rows["whole"]["card"] == {"classes": [{"name": "sky"}, {"name": "roof"}]}
    assert "classes" in rows["torn"]["summary"]


def test_readers_say_which_files_they_take(capsys: pytest.CaptureFixture[str]) -> None:
    """The list of readers holds their suffixes."""
    assert main(["readers", "--json"]) == 0
    assert ".tif" in next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "tiff")["suffixes"]


def test_writers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """The list of writers holds the default one."""
    assert main(["writers"]) == 0
    assert "ome_zarr" in capsys.readouterr().out


@pytest.mark.parametrize("spec", ["histogram", "{name: histogram, classes: 2}", "pipeline.models.histogram"])
def test_a_model_is_described(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name, a mapping or a dotted name gives size, stride, reach, channels and classes."""
    assert main(["models", "--describe", spec, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"parameters": 0, "stride": 1, "field": 0, "channels": None, "classes": 2}


def test_a_model_that_tells_objects_apart_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    """The maps that a bundle gives besides classes, and the method that fits them, as the YAML has it."""
    assert main(["models", "--describe", "nuclei", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["maps"] == {"interior": 1, "border": 1}
    assert described["instances"] == {"name": "border", "of": ["nucleus"], "min_area": 15}
    assert main(["models", "--describe", "nuclei"]) == 0
    assert "{name: border, of: [nucleus], min_area: 15}" in capsys.readouterr().out


def test_a_network_is_measured() -> None:
    """`--probe` finds by trial the stride and the reach that `--describe` derives."""
    options = "{name: unet, depth: 1, base: 2}"
    answers = [
        subprocess.run([*COMMAND, "models", how, options, "--json"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for how in ("--describe", "--probe")
    ]
    described, probed = (json.loads(answer) for answer in answers)
    assert probed == described
    assert described["parameters"] > 0


@pytest.mark.parametrize("spec", ["{name: histgram}", "{a: ", "{name: histogram, clases: 3}"])
def test_a_model_that_is_not_is_refused(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown model or option is the user's mistake: where, what, and what is allowed."""
    assert main(["models", "--describe", spec]) == 2
    assert capsys.readouterr().err.startswith("gigaseg: --describe")


@pytest.mark.parametrize(("name", "meant"), [("histgram", "histogram"), ("nucleii", "nuclei")])
def test_a_misspelt_model_is_offered_models_and_bundles(
    name: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`segment -m` takes models and bundles, so that both are allowed and the nearest of both is meant; nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert main(["segment", "x.png", "-m", name, "-o", "out"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"gigaseg: --model: found {name!r}; expected ")
    assert {"histogram", "nuclei", "unet"} <= set(said.partition("expected ")[2].partition(".")[0].replace(" or ", ", ").split(", "))
    assert said.endswith(f"Did you mean {meant!r}?\n")
    assert not list(tmp_path.iterdir())


def test_a_bundle_in_this_folder_is_offered_with_its_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name of a folder that holds a bundle gets the path to type."""
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/model.yaml").touch()
    assert main(["models", "--describe", "mine"]) == 2
    assert "For the folder here, write ./mine." in capsys.readouterr().err


def test_the_schema_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """`gigaseg schema` prints a JSON schema that names the required keys."""
    import jsonschema

    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.validators.validator_for(schema).check_schema(schema)
    assert {"images", "model", "output"} <= set(schema["required"])
    jsonschema.validate(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")), schema)


@pytest.mark.parametrize("kind", ["microscopy", "aerial"])
def test_init_writes_a_ready_yaml_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`init` copies the ready YAML; a second time it refuses and leaves the file as it is."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", kind]) == 0
    written = tmp_path / f"{kind}.yaml"
    assert {"images", "model", "output"} <= set(yaml.safe_load(written.read_text(encoding="utf-8")))
    written.write_text("mine", encoding="utf-8")
    assert main(["init", kind]) == 2
    assert written.read_text(encoding="utf-8") == "mine"
    assert "there already" in capsys.readouterr().err


def test_init_offers_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt kind gets the nearest one."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", "microscop"]) == 2
    assert "Did you mean 'microscopy'?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_doctor_reports_and_never_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """`doctor` ends with 0 and says what is there, for people and for machines."""
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gigaseg"] == __version__
    assert found["memory_bytes"] > 0
    assert found["packages"]["zarr"]
    assert main(["doctor"]) == 0
    assert f"gigaseg   {__version__}" in capsys.readouterr().out


def test_doctor_offers_the_command_for_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not installed stands there with the command that installs it, without a GPU driver as well."""
    from workflows import doctor

    monkeypatch.setattr(doctor, "_version", lambda _package: None)
    monkeypatch.setattr(doctor, "_torch", lambda: {"version": None, "cuda": False})
    monkeypatch.setenv("PATH", "")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "gpu       none" in shown
    assert "pip install onnx onnxruntime" in shown
    assert 'pip install --no-deps "stardist>=0.9.2"' in shown


def test_input_that_a_model_refuses_at_its_first_block_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    """A channel that an image lacks ends with exit code 2 and no output folder, though a phase before the model was done."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), photometric="rgb")
    keys = {"images": "a.tif", "model": {"name": "histogram", "classes": 2, "channel": 9}, "output": "out"}
    Path("c.yaml").write_text(yaml.safe_dump(keys))
    assert main(["run", "c.yaml"]) == 2
    assert "model.channel: found 9" in capsys.readouterr().err
    assert not Path("out").exists()
    assert main(["run", "c.yaml", "--set", "model.channel=1"]) == 0


def test_options_are_listed_as_they_are_written(capsys):
    """Options have the names that a YAML takes, and a format that is not installed has the command that installs it."""
    assert main(["models", "--json"]) == 0
    options = {row["name"]: row["options"] for row in json.loads(capsys.readouterr().out)}
    assert {"stride", "field"} < set(options["torchscript"])
    assert not any(name.startswith("given_") for name in options["torchscript"])


def test_weights_that_do_not_fit_leave_nothing_behind(tmp_path, monkeypatch, capsys):
    """Weights of another network end with exit code 2, one line that names theirs, and no output folder; what lay there stays."""
    from safetensors.torch import save_file

    from pipeline.plugins import build

    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", np.zeros((40, 40), np.uint8))
    save_file(build("models", {"name": "unet", "depth": 2, "base": 8, "channels": 1}).build().state_dict(), "w.safetensors")
    wrong = {"name": "unet", "depth": 2, "base": 16, "channels": 1, "weights": "w.safetensors"}
    Path("c.yaml").write_text(yaml.safe_dump({"images": "a.tif", "model": wrong, "output": "out", "compute": {"backend": "torch"}}))
    assert main(["run", "c.yaml"]) == 2
    said = capsys.readouterr().err
    assert "Use model: {name: unet, " in said
    assert "base: 8" in said
    assert not Path("out").exists()
    Path("out").mkdir()
    Path("out/mine.txt").touch()
    assert main(["run", "c.yaml"]) == 2
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("attempts", "told"),
    [
        ([], ""),
        ([1, 1], "; repair or remove the files"),
        ([3, 3], "; try them again: gigaseg retry"),
        ([1, 3], "Damaged files must be repaired first"),
    ],
)
def test_advice_fits_the_failures(tmp_path, attempts, told):
    """What was tried once fails the same way each time: to retry it is no advice."""
    text = advice(RunFolder(tmp_path), [{"attempts": number, "cause": "damaged"} for number in attempts])
    assert told in text
    assert ("gigaseg retry" in text) == (3 in attempts)
