"""The table of backends: what is like a network, what a run costs with each backend, and which of them costs least in the worst case."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.plugins import build
from pipeline.tuning.backend_choice import table_backend
from pipeline.tuning.backend_table import BackendRow, BackendTable, Work, least_worst, network_kind, processor_class, read_table
from tests.conftest import UNET

NAMES = ("torch", "openvino")


def row(backend, prepare_s, seconds, *, kind="residual", processor="avx2", precision="fp32", network=None):
    """A measured row of one thread."""
    return BackendRow(processor, network or kind, kind, backend, precision, prepare_s, {1: seconds})


@pytest.fixture
def table():
    """OpenVINO twice as fast after 3 s of preparing; far slower for transformers here; and measured in bf16 on another processor."""
    rows = (
        row("torch", 0.0, 2.0),
        row("openvino", 3.0, 1.0),
        row("torch", 0.0, 1.0, kind="transformer"),
        row("openvino", 3.0, 4.0, kind="transformer"),
        row("torch", None, 2.0, processor="amx_bf16", precision="bf16"),
        row("openvino", None, 0.5, processor="amx_bf16", precision="bf16"),
    )
    return BackendTable(rows, start_s=0.0, import_s=1.5, ray_s=5.0, other_s=0.0, efficiency=0.9)


def taken(table, megapixels, *, kind="residual", processor="avx2", precision="fp32", names=NAMES, **work):
    """The backend that the table gives, and the reason."""
    return table_backend(table, processor, kind, precision, Work(megapixels * 1e6, **work), names)


def test_the_seconds_of_preparing_count(table):
    """A graph that takes 3 s is made where the pixels repay it: for more than 3 megapixels of one second less each."""
    assert taken(table, 2.9)[0] == "torch"
    assert taken(table, 3.1)[0] == "openvino"
    assert taken(table, 3.1, processes=2)[0] == "torch", "two actors compute half as long, and each prepares"


def test_a_kept_graph_needs_neither_preparing_nor_torch(table):
    """Where OpenVINO has its graph, the smallest run is faster with it; a slower graph is still left where pixels are many."""
    assert taken(table, 0.1, prepared=["openvino"])[0] == "openvino"
    assert taken(table, 0.1, kind="transformer", prepared=["openvino"])[0] == "openvino"
    assert taken(table, 1.0, kind="transformer", prepared=["openvino"])[0] == "torch"


def test_a_check_prepares_once_more(table):
    """A backend that nobody has compared with eager torch yet takes 3 s more; where its graph is kept, it takes torch."""
    assert taken(table, 5.9, unchecked=["openvino"])[0] == "torch"
    assert taken(table, 6.1, unchecked=["openvino"])[0] == "openvino"
    assert taken(table, 0.1, unchecked=["openvino"], prepared=["openvino"])[0] == "openvino"
    assert taken(table, 0.1, kind="transformer", unchecked=["openvino"], prepared=["openvino"])[0] == "torch"


def test_a_graph_that_is_kept_is_prepared_once_also_for_a_check(table):
    """What the check makes, the run reads: 3 s, and torch for both."""
    assert taken(table, 3.1, unchecked=["openvino"], keeping=["openvino"])[0] == "openvino"
    assert taken(table, 3.1, unchecked=["openvino"])[0] == "torch", "a control"


def test_a_graph_that_makes_later_runs_faster_may_cost_a_fifth_now(table):
    """1.5 s of importing torch and 1 or 2 s a megapixel: with 3 s of preparing, 1.2 times as long at 1.93 megapixels."""
    assert taken(table, 2.0, keeping=["openvino"])[0] == "openvino"
    assert (
        "with which later runs start sooner, and 2 megapixels take at most 1.2 times as long now,"
        in taken(table, 2.0, keeping=["openvino"])[1]
    )
    assert taken(table, 1.9, keeping=["openvino"])[0] == "torch"
    assert taken(table, 2.0)[0] == "torch", "a control: nothing is kept"
    assert taken(table, 100.0, kind="transformer", keeping=["openvino"])[0] == "torch", "slower in later runs as well"
    assert taken(replace(table, start_s=10.0), 0.6, keeping=["openvino"])[0] == "openvino", "what every run takes counts"


def test_measured_speeds_of_a_trial_take_the_place_of_the_tables(table):
    """A trial of this very network knows better; preparing stays what the table says."""
    rates = {"torch": 1.0, "openvino": 4.0}
    assert taken(table, 100.0, rates=rates)[0] == "torch"
    assert taken(table, 2.0, rates={"torch": 4.0, "openvino": 1.0})[0] == "openvino"
    assert taken(table, 0.5, rates={"torch": 4.0, "openvino": 1.0})[0] == "torch"


def test_what_is_not_known_costs_least_in_the_worst_case(table):
    """For an unknown kind OpenVINO may cost four times as much, torch twice: torch is taken, unless OpenVINO is the only one."""
    assert taken(table, 1000.0, kind="")[0] == "torch"
    fast = replace(table, rows=tuple(row for row in table.rows if row.kind != "transformer"))
    assert taken(fast, 1000.0, kind="")[0] == "openvino", "a control: without the slow kind"
    assert taken(table, 1000.0, kind="transformer", processor="arm")[0] == "torch", "an unknown processor: that kind elsewhere"
    assert taken(table, 1000.0, kind="residual", processor="arm")[0] == "openvino"


def test_nothing_is_said_without_a_measurement_or_a_choice(table):
    """No row of the precision, or a single backend."""
    assert taken(table, 10.0, precision="fp16") is None
    assert taken(table, 10.0, names=("torch",)) is None


def test_the_reason_names_what_it_rests_on(table):
    """The processor and the kind, as far as they were measured."""
    assert taken(table, 10.0)[1] == "the fastest for 10 megapixels, as measured with residual networks on processors with avx2"
    assert taken(table, 10.0, kind="dilated")[1].endswith("with dilated and other networks on processors with avx2")
    assert taken(table, 10.0, kind="", processor="arm")[1].endswith("with all kinds of networks on other processors")
    assert taken(table, 10.0, rates={"torch": 4.0, "openvino": 1.0})[1].startswith(
        "the fastest by the speed of a trial and by seconds of preparing, as measured with"
    )


def test_preparing_that_was_not_measured_is_the_longest_of_its_kind(table):
    """3 s of residual networks elsewhere count for those in bf16."""
    assert taken(table, 1.9, processor="amx_bf16", precision="bf16")[0] == "torch"
    assert taken(table, 2.1, processor="amx_bf16", precision="bf16")[0] == "openvino"


def test_the_least_worst_needs_every_option_in_every_case():
    """An option that was not measured everywhere is none; without options there is no answer."""
    assert least_worst([{"a": 1.0, "b": 2.0}, {"b": 1.0}]) == ("b", 1.0)
    assert least_worst([{"a": 1.0}, {"b": 1.0}]) is None
    assert least_worst([]) is None


@pytest.mark.parametrize(
    ("seconds", "threads", "rate"),
    [({1: 1.0}, 4, 0.25), ({2: 1.0}, 1, 2.0), ({1: 1.0, 2: 1.2}, 8, 1.0), ({1: 1.0, 2: 0.4}, 4, 0.25), ({1: 1.0, 4: 0.4}, 2, 0.6)],
    ids=["one measured", "two measured", "threads do not help", "more than linear", "a part is divided"],
)
def test_threads_divide_the_part_that_they_were_measured_to_divide(seconds, threads, rate):
    """Amdahl's law through what was measured; linear where one number of threads was."""
    assert BackendRow("avx2", "n", "plain", "torch", "fp32", 0.0, seconds).rate(threads) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("sse2 avx2 avx512f avx512_bf16 amx_bf16", "amx_bf16"),
        ("avx2 avx512f avx512_bf16", "avx512_bf16"),
        ("avx2 avx512f", "avx512f"),
        ("fma avx2", "avx2"),
        ("fp asimd bf16", "arm"),
        ("sse2", "other"),
    ],
)
def test_the_class_of_a_processor_is_its_widest_arithmetic(tmp_path, monkeypatch, flags, found):
    """By the flags of the kernel, whole words."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(f"model name\t: A processor\nflags\t\t: {flags}\n")
    assert processor_class(tmp_path / "cpuinfo") == found


def test_a_machine_without_the_kernels_file_is_known_by_its_name(tmp_path, monkeypatch):
    """There is no /proc/cpuinfo on macOS."""
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert processor_class(tmp_path / "none") == "arm"
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert processor_class(tmp_path / "none") == "other"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (UNET, "light"),
        ({"name": "unet"}, "plain"),
        ({"name": "segnet"}, "unpooling"),
        ({"name": "frrn"}, "plain"),
        ({"name": "bundle", "path": "nuclei"}, "light"),
        ({"name": "bundle", "path": "aerial-landcover"}, "separable"),
        ({"name": "smp", "architecture": "Unet", "encoder": "resnet18"}, "residual"),
        ({"name": "smp", "architecture": "FPN", "encoder": "efficientnet-b0"}, "separable"),
        ({"name": "smp", "architecture": "DeepLabV3Plus", "encoder": "mobilenet_v2"}, "dilated separable"),
        ({"name": "smp", "architecture": "Segformer", "encoder": "resnet18"}, "transformer"),
        ({"name": "smp", "architecture": "Unet", "encoder": "mit_b0"}, "transformer"),
        ({"name": "smp", "architecture": "Unet", "encoder": "inceptionv4"}, ""),
        ({"name": "deeplabv3plus", "encoder": "resnet50"}, "dilated"),
        ({"name": "deeplabv3plus"}, "dilated separable"),
        ({"name": "ensemble", "members": [UNET, {**UNET, "seed": 1}]}, "light"),
        ({"name": "ensemble", "members": [UNET, {**UNET, "base": 64}]}, ""),
        ({"name": "histogram", "classes": 2}, ""),
    ],
    ids=str,
)
def test_the_kind_of_a_network_is_known_from_its_options(options, kind):
    """Without building it: plug-in, architecture and encoder; a bundle's are those of the network inside."""
    assert network_kind(build("models", options)) == kind


def test_another_mans_network_is_of_no_known_kind():
    """A model from elsewhere has a name of its own."""
    model = SimpleNamespace()
    model.constituents = (model,)
    assert network_kind(model) == ""


def test_the_kept_table_is_whole():
    """Every measured network has a row of each backend, with one kind, speeds above zero and a class that some processor has."""
    table = read_table()
    assert min(table.import_s, table.ray_s, table.other_s, table.efficiency) > 0
    cases = {}
    for each in table.rows:
        assert each.seconds
        assert min(each.seconds.values()) > 0
        assert each.prepare_s is None or each.prepare_s >= 0
        cases.setdefault((each.processor, each.network, each.precision), []).append(each)
    assert {"avx2", "amx_bf16"} <= {each.processor for each in table.rows}
    for rows in cases.values():
        assert len({each.backend for each in rows}) == len(rows)
        assert "torch" in {each.backend for each in rows}
        assert len({each.kind for each in rows}) == 1
