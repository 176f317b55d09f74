"""The trial of backends: who is quick and wrong is refused, what was found is recorded and remembered."""

from __future__ import annotations

import json
import sys
import time
import types
from contextlib import contextmanager

import numpy as np
import pytest

from pipeline.backends import Backend
from pipeline.backends.torch import Torch
from pipeline.errors import BlockError, InputError
from pipeline.models import Predictor
from pipeline.tuning import backend_trial as trial
from tests.conftest import blobs, engine_yaml, save_tiff

torch = pytest.importorskip("torch")

SHAPE = (300, 260)
SLOW_S = 0.05  # that an honest backend sleeps, so that another one is quicker by far


def least_sure(logits_BKYX):
    """Indices of pixels, those first that are least sure of their class."""
    ordered = np.sort(logits_BKYX, axis=1)
    return np.argsort((ordered[:, -1] - ordered[:, -2]).ravel())


def swap(logits_BKYX, pixels):
    """Give some pixels their second class."""
    rows = np.moveaxis(logits_BKYX, 1, -1).reshape(-1, logits_BKYX.shape[1])
    order = np.argsort(rows, axis=1)
    first, second = order[pixels, -1], order[pixels, -2]
    rows[pixels, first], rows[pixels, second] = rows[pixels, second], rows[pixels, first]
    batch, _, height, width = logits_BKYX.shape
    return np.moveaxis(rows.reshape(batch, height, width, -1), -1, 1)


def doubtful(share):
    """A lie about the least sure pixels, so many of them."""
    return lambda logits_BKYX: swap(logits_BKYX, least_sure(logits_BKYX)[: round(share * logits_BKYX[:, 0].size)])


def surest(logits_BKYX):
    """A lie about one pixel, which is the surest."""
    return swap(logits_BKYX, least_sure(logits_BKYX)[-1:])


@pytest.fixture
def plant(monkeypatch, tmp_path):
    """Make backends the only candidates of a trial: ``plant(quick={"lie": ..}, slow={"sleep_s": ..})``; returns what was opened.

    Each computes as eager torch does, then lies or sleeps. Runs count as long, and nothing is remembered from elsewhere.
    """
    opened: list[tuple[str, str]] = []

    def make(name, lie=None, sleep_s=0.0, error=None, classes=None):
        class Planted(Backend):
            """Eager torch, and then not quite."""

            @contextmanager
            def open(self, network, recipe, normalize):
                opened.append((name, recipe.precision))
                if error:
                    raise error
                with Torch().open(network, recipe, normalize) as predict:
                    yield Liar(predict, recipe)

        class Liar(Predictor):
            """What the planted backend yields."""

            def __init__(self, predict, recipe):
                super().__init__()
                self.predict, self.recipe, self.has_own_classes = predict, recipe, classes is not None

            def __call__(self, pixels_BCYX, fits):
                logits_BKYX = np.asarray(self.predict(pixels_BCYX, fits))
                time.sleep(sleep_s)
                if lie and lie.__code__.co_argcount == 2:
                    return lie(logits_BKYX, self.recipe)
                return lie(logits_BKYX) if lie else logits_BKYX

            def classes(self, pixels_BCYX, fits):
                if classes is None:
                    return self(pixels_BCYX, fits)
                return classes(np.asarray(self.predict(pixels_BCYX, fits)).argmax(axis=1))

        module = types.ModuleType(f"planted.{name}")
        module.__all__, module.Planted = ["Planted"], Planted
        Planted.__module__ = module.__name__
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module.__name__

    def go(**backends):
        names = [make(name, **facts) for name, facts in backends.items()]
        monkeypatch.setattr(trial, "BACKENDS", tuple(name for name in names if not name.endswith(".compiler")))
        return opened

    monkeypatch.setitem(sys.modules, "planted", types.ModuleType("planted"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "WORTHWHILE", 0)
    save_tiff(tmp_path / "a.tif", blobs(SHAPE))
    return go


@pytest.fixture
def segmented(engine, networks):
    """Run the decided network over the image, in float32 unless said otherwise."""

    def go(output="out", *, fresh=False, model="same", **compute):
        keys = {"fresh": True} if fresh else {}
        return engine(output=output, model=networks[model], compute=compute, **keys)

    return go


def told(done, name):
    """What run.json says of one candidate."""
    return next(one for one in done.run_json["trial"]["tried"] if one["backend"] == f"planted.{name}")


@pytest.mark.parametrize(
    ("lie", "reason"),
    [(doubtful(0.01), "99.0"), (surest, "1 that were sure|2 that were sure")],
    ids=["one pixel of a hundred", "a sure pixel"],
)
def test_who_lies_is_refused(plant, segmented, lie, reason):
    """A quick backend that gives 1 % of the pixels, or one that is sure, another class is refused, and the next best taken."""
    plant(liar={"lie": lie}, slow={"sleep_s": SLOW_S})
    done = segmented()
    assert done.run_json["recipe"]["backend"] == "planted.slow"
    found = told(done, "liar")
    assert found["seconds"] is None
    assert any(one in found["refused"] for one in reason.split("|"))
    honest = segmented("honest", backend="torch")
    assert np.array_equal(done.mask(), honest.mask())


def test_rounding_is_no_lie(plant, segmented):
    """A control: a quick backend that differs on 3 pixels of a thousand, none of them sure, is taken."""
    plant(quick={"lie": doubtful(0.003)}, slow={"sleep_s": SLOW_S})
    assert segmented().run_json["recipe"]["backend"] == "planted.quick"


def test_what_does_not_compile_is_left_out(plant, segmented):
    """A backend that fails, or gives NaN, is left out with its reason, and the run goes on with another."""

    def poison(logits_BKYX):
        return np.full_like(logits_BKYX, np.nan)

    plant(broken={"error": RuntimeError("no operator of this name")}, poison={"lie": poison}, slow={"sleep_s": SLOW_S})
    done = segmented()
    assert done.run_json["recipe"]["backend"] == "planted.slow"
    assert told(done, "broken")["refused"] == "RuntimeError: no operator of this name"
    assert "NaN" in told(done, "poison")["refused"]
    assert told(done, "broken")["agreement"] is None


def test_classes_are_compared_as_well(plant, segmented):
    """A backend whose classes are not those of its logits is refused: a run that needs no scores asks for nothing else."""

    def lie(classes_BYX):
        return (classes_BYX + 1) % 3

    plant(liar={"classes": lie}, honest={"classes": lambda classes_BYX: classes_BYX, "sleep_s": SLOW_S})
    done = segmented()
    assert done.run_json["recipe"]["backend"] == "planted.honest"
    assert "0.00% of the pixels agree" in told(done, "liar")["refused"]


def test_it_is_tried_where_there_is_something_to_see(plant, segmented, tmp_path):
    """A backend that gives the class of glass everywhere is refused on a slide that is glass but for a corner."""
    slide = np.full((768, 768), 128, np.uint8)
    slide[:120, :120] = blobs((120, 120))
    save_tiff(tmp_path / "a.tif", slide)

    def constant(logits_BKYX):
        return np.broadcast_to(logits_BKYX[:, :, -100:-99, -100:-99], logits_BKYX.shape).copy()

    plant(liar={"lie": constant}, slow={"sleep_s": SLOW_S})
    done = segmented(model="valid")
    assert done.run_json["recipe"]["backend"] == "planted.slow"
    assert "of the pixels agree" in told(done, "liar")["refused"]


def test_what_shows_a_single_class_is_not_remembered(plant, segmented, tmp_path):
    """A trial on images of glass alone serves its run, and no other."""
    save_tiff(tmp_path / "a.tif", np.full(SHAPE, 128, np.uint8))
    plant(quick={}, slow={"sleep_s": SLOW_S})
    found = [segmented(name, model="valid") for name in ("one", "two")]
    assert [done.run_json["recipe"]["backend"] for done in found] == ["planted.quick"] * 2
    assert [done.run_json["trial"]["cached"] for done in found] == [False, False]


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (MemoryError("cannot allocate"), False),
        (OSError(28, "No space left on device"), False),
        (InputError("the runtime cannot run this network (std::bad_alloc)"), False),
        (InputError("the runtime cannot run this network (no such operator)"), True),
        (BlockError("the model gave NaN or infinite scores"), True),
    ],
    ids=["memory", "disk", "memory, told as a graph", "no operator", "NaN"],
)
def test_a_failure_that_passes_is_not_remembered(plant, segmented, error, is_kept):
    """A backend that failed by short memory or a full disk is tried again by the next run; one that cannot run the network is not."""
    plant(quick={"error": error}, slow={"sleep_s": SLOW_S})
    done = segmented()
    assert done.run_json["recipe"]["backend"] == "planted.slow"
    assert told(done, "quick")["passing"] != is_kept
    plant(quick={}, slow={"sleep_s": SLOW_S})
    assert segmented("later").run_json["recipe"]["backend"] == ("planted.slow" if is_kept else "planted.quick")


def test_what_was_tried_is_recorded(plant, segmented, capsys):
    """run.json holds the choice, and the speed and the agreement of each candidate; a line says the same."""
    plant(quick={}, slow={"sleep_s": SLOW_S})
    done = segmented()
    found = done.run_json["trial"]
    assert (found["backend"], found["precision"], found["cached"]) == ("planted.quick", "fp32", False)
    assert found["seconds"] > 0
    assert [one["backend"] for one in found["tried"]] == ["planted.quick", "planted.slow"]
    assert all(one["agreement"] == 1 and one["sure"] == 0 and not one["refused"] for one in found["tried"])
    assert found["tried"][0]["seconds"] < found["tried"][1]["seconds"]
    line = next(one for one in done.run_json["notes"] if one.startswith("compute.backend"))
    assert line in capsys.readouterr().err
    assert "planted.quick fp32, by a trial of" in line
    assert "100.00% of the pixels agree" in line


def test_of_equals_the_first_is_taken(plant, segmented, monkeypatch):
    """Of two about as quick as each other, the earlier in the order is taken, whichever the clock favours this time."""
    monkeypatch.setattr(trial, "EQUALLY_FAST", 1e6)
    plant(slow={"sleep_s": SLOW_S}, quick={})
    assert segmented().run_json["recipe"]["backend"] == "planted.slow"


def test_nothing_is_tried_where_it_does_not_pay(plant, segmented, monkeypatch):
    """A run of fewer than 20 times the pixels of the trial tries nothing and runs as if there were one backend."""
    opened = plant(quick={}, slow={})
    pixels = (2 * (2 * trial.NUM_TILES + trial.NUM_ROUNDS) + 2 * trial.NUM_TILES) * 256**2 + 2 * trial.SETUP_PIXELS
    assert trial.WORTHWHILE == 0
    monkeypatch.setattr(trial, "WORTHWHILE", SHAPE[0] * SHAPE[1] / pixels)
    done = segmented()
    assert not opened
    assert done.run_json["recipe"]["backend"] == "torch"
    assert "trial" not in done.run_json
    monkeypatch.setattr(trial, "WORTHWHILE", (SHAPE[0] * SHAPE[1] - 1) / pixels)
    assert "trial" in segmented("longer").run_json, "a control: one pixel more is enough"


def test_nothing_is_tried_where_the_yaml_names_one(plant, segmented):
    """A backend that the YAML names is used, untried."""
    opened = plant(quick={}, slow={})
    done = segmented(backend="planted.slow")
    assert opened == [("slow", "fp32")]
    assert "trial" not in done.run_json


def test_a_precision_that_is_named_is_the_only_one(plant, segmented, monkeypatch):
    """A precision that the YAML names is the only one tried; left open, float32 is tried where fewer bits agree in nothing."""
    monkeypatch.setattr("pipeline.tuning.compute_choice.bf16_supported", lambda: True)

    def in_bf16(logits_BKYX, recipe):
        return surest(logits_BKYX) if recipe.precision == "bf16" else logits_BKYX

    opened = plant(quick={"lie": in_bf16}, slow={"sleep_s": SLOW_S, "lie": in_bf16})
    segmented("named", precision="fp32")
    assert {precision for _, precision in opened} == {"fp32"}
    opened.clear()
    done = segmented("open", precision="auto")
    recipe = done.run_json["recipe"]
    assert (recipe["backend"], recipe["precision"]) == ("planted.quick", "fp32")
    assert opened[:2] == [("quick", "bf16"), ("slow", "bf16")]
    assert [one["precision"] for one in done.run_json["trial"]["tried"]] == ["bf16", "bf16", "fp32", "fp32"]


def test_where_nothing_agrees_eager_torch_is_used(plant, segmented):
    """Where every candidate is refused, the run is eager float32, and run.json says why."""
    plant(liar={"lie": surest}, other={"lie": doubtful(0.2)})
    done = segmented()
    recipe = done.run_json["recipe"]
    assert (recipe["backend"], recipe["precision"]) == ("torch", "fp32")
    assert all(one["refused"] for one in done.run_json["trial"]["tried"])


def test_a_resumed_run_keeps_its_backend(plant, engine, networks, tmp_path):
    """A run that goes on, with one image more, has the backend that it began with, though another one would win now."""
    keys = {"images": ["*.tif"], "model": networks["same"]}
    plant(one={}, other={"sleep_s": SLOW_S})
    assert engine(**keys).run_json["recipe"]["backend"] == "planted.one"
    save_tiff(tmp_path / "b.tif", blobs(SHAPE, seed=1))
    opened = plant(one={"sleep_s": SLOW_S}, other={})
    opened.clear()
    done = engine(**keys)
    assert opened == [("one", "fp32")]
    assert done.run_json["recipe"]["backend"] == "planted.one"
    assert done.run_json["trial"]["backend"] == "planted.one"
    assert done.report["images"] == 2
    assert engine(fresh=True, **keys).run_json["recipe"]["backend"] == "planted.other", "a control: started over, the other wins"


def test_a_later_run_needs_no_trial(plant, segmented):
    """What a trial found is used by later runs of this model here, and run.json says so; --fresh tries anew."""
    opened = plant(quick={}, slow={"sleep_s": SLOW_S})
    first = segmented().run_json["trial"]
    opened.clear()
    done = segmented("later")
    assert opened == [("quick", "fp32")], "the run itself, and nothing before it"
    assert done.run_json["trial"] == {**first, "cached": True}
    assert "that an earlier run held (--fresh" in " ".join(done.run_json["notes"])
    anew = segmented("later", fresh=True).run_json["trial"]
    assert not anew["cached"]
    assert opened[1:] == [("quick", "fp32"), ("slow", "fp32"), ("quick", "fp32")]


def test_a_short_run_uses_a_remembered_trial(plant, segmented, networks, monkeypatch, tmp_path, capsys):
    """Also with another number of threads, and in plan; the trial is recorded, and a run of another network knows nothing of it."""
    from workflows.plan import plan

    opened = plant(quick={}, slow={"sleep_s": SLOW_S})
    first = segmented().run_json["trial"]
    monkeypatch.setattr(trial, "WORTHWHILE", 1e6)
    opened.clear()
    done = segmented("short", threads=2)
    assert opened == [("quick", "fp32")], "the run itself, and nothing before it"
    assert done.run_json["recipe"]["backend"] == "planted.quick"
    assert done.run_json["trial"] == {**first, "cached": True, "reason": "the fastest"}
    note = next(note for note in done.run_json["notes"] if note.startswith("compute.backend"))
    assert note.startswith("compute.backend: planted.quick fp32, the fastest, by a trial of")
    assert "that an earlier run held: planted.quick" in note
    capsys.readouterr()
    plan(engine_yaml(tmp_path, output="later", model=networks["same"]), as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["recipe"]["backend"] == "planted.quick"
    assert note in content["notes"]
    assert segmented("other", model="valid").run_json["recipe"]["backend"] == "torch"


def test_a_long_run_of_more_threads_holds_a_trial_of_its_own(plant, segmented):
    """Backends may gain from threads unequally, and a long run repays a trial."""
    plant(quick={}, slow={"sleep_s": SLOW_S})
    assert not segmented().run_json["trial"]["cached"]
    assert not segmented("more", threads=2).run_json["trial"]["cached"]
    assert segmented("again", threads=2).run_json["trial"]["cached"]


def test_a_short_run_counts_preparing_beside_the_speed_of_a_trial(plant, segmented, monkeypatch):
    """The faster backend of a trial is left where compiling it takes longer than the other takes for all pixels."""
    from pipeline.tuning import backend_choice
    from pipeline.tuning.backend_table import BackendRow, BackendTable, processor_class

    plant(quick={}, slow={"sleep_s": SLOW_S})
    segmented()
    monkeypatch.setattr(trial, "WORTHWHILE", 1e6)
    names = ("planted.quick", "planted.slow")
    monkeypatch.setattr(backend_choice, "LIKELY_BACKENDS", names)
    for prepare_s, taken in ((100.0, "planted.slow"), (0.0, "planted.quick")):
        rows = [
            BackendRow(processor_class(), "net", "light", name, "fp32", prepare_s if name == names[0] else 0.0, {1: 1.0}) for name in names
        ]
        table = BackendTable(tuple(rows), start_s=0.0, import_s=1.0, ray_s=5.0, other_s=0.0, efficiency=0.9)
        monkeypatch.setattr(backend_choice, "read_table", lambda table=table: table)
        done = segmented(f"short-{prepare_s:.0f}")
        assert done.run_json["recipe"]["backend"] == taken
        assert "by the speed of a trial and by seconds of preparing, as measured with light networks" in " ".join(done.run_json["notes"])


def test_what_matters_is_tried_anew(plant, engine, networks, monkeypatch, tmp_path):
    """Other weights, options, normalisation, types of pixels, versions or processor: what was found before does not count."""
    opened = plant(quick={}, slow={"sleep_s": SLOW_S})
    save_tiff(tmp_path / "deep.tif", blobs(SHAPE, dtype=np.uint16))

    def is_tried(output, **keys):
        opened.clear()
        done = engine(output=output, **{"model": networks["same"], **keys})
        assert done.run_json["trial"]["cached"] == (len(opened) == 1)
        return not done.run_json["trial"]["cached"]

    assert is_tried("first")
    assert not is_tried("again")
    assert is_tried("weights", model=networks["valid"])
    assert is_tried("options", model={**networks["same"], "tta": "flips"})
    assert is_tried("normalize", normalize="zscore")
    assert is_tried("pixels", images=["deep.tif"])
    with monkeypatch.context() as patch:
        patch.setattr(trial, "_version", lambda package: "99.0")
        assert is_tried("version")
    with monkeypatch.context() as patch:
        patch.setattr(trial, "processor_name", lambda: "a processor of another kind")
        assert is_tried("processor")
    assert not is_tried("last")


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"tried": [{"colour": 1}]}'])
def test_a_damaged_answer_is_none(plant, segmented, tmp_path, damage):
    """A remembered answer that cannot be read is tried anew, and replaced."""
    plant(quick={}, slow={"sleep_s": SLOW_S})
    segmented()
    (kept,) = (tmp_path / "cache" / "gigaseg" / "trials").iterdir()
    kept.write_text(damage)
    assert not segmented("second").run_json["trial"]["cached"]
    assert segmented("third").run_json["trial"]["cached"]


def test_a_home_that_cannot_be_written_in_does_no_harm(plant, segmented, monkeypatch, tmp_path):
    """Where answers cannot be kept, each run tries for itself."""
    plant(quick={}, slow={"sleep_s": SLOW_S})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [segmented(name).run_json["trial"]["cached"] for name in ("one", "two")] == [False, False]


def test_plan_says_what_will_be_chosen(plant, segmented, networks, tmp_path, capsys):
    """Before a trial, plan names what it expects; after one, what was found, with speeds; and the run then does that."""
    from workflows.plan import plan

    opened = plant(slow={"sleep_s": SLOW_S}, quick={})

    def planned():
        capsys.readouterr()
        plan(engine_yaml(tmp_path, output="later", model=networks["same"]), as_json=True)
        content = json.loads(capsys.readouterr().out)
        return content["recipe"]["backend"], " ".join(content["notes"])

    backend, notes = planned()
    assert backend == "planted.slow"
    assert "decided by a trial when the run begins; planted.slow is expected" in notes
    assert not opened
    segmented()
    opened.clear()
    backend, notes = planned()
    assert backend == "planted.quick"
    assert "by a trial of" in notes
    assert not opened
    assert segmented("later").run_json["recipe"]["backend"] == "planted.quick"


def test_compiling_is_tried_where_it_pays(plant, segmented, monkeypatch):
    """Torch's compiler is tried in long runs that would be eager torch else; what a short run found does not answer for a long one."""
    opened = plant(eager={"sleep_s": SLOW_S}, slow={"sleep_s": 3 * SLOW_S}, compiler={})
    monkeypatch.setattr(trial, "EAGER", "planted.eager")
    monkeypatch.setattr(trial, "COMPILER", "planted.compiler")
    monkeypatch.setattr(trial, "WORTHWHILE", 1e-9)

    def run(name, is_long):
        monkeypatch.setattr(trial, "COMPILE_S", 0 if is_long else 1e12)
        found = segmented(name).run_json["trial"]
        return found["backend"], found["cached"]

    assert run("short", is_long=False) == ("planted.eager", False)
    assert ("compiler", "fp32") not in opened
    assert run("long", is_long=True) == ("planted.compiler", False)
    assert run("long again", is_long=True) == ("planted.compiler", True)
    assert run("short again", is_long=False) == ("planted.eager", True)
