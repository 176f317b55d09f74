"""Two runs compared: each difference with the interval that scipy gives, and every image that is not compared is named."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.metrics.semantic import Semantic
from pipeline.records.run_folder import REPORT_PARTS
from pipeline.report import compare_reports, print_comparison, write_comparison, write_report
from pipeline.report.content import ImageCounts, build_report
from pipeline.statistics.pixel_counts import Counts
from workflows.compare import FILES

NAMES = ("background", "nucleus", "border")


def image(name, matrix, missing=0):
    """Return the counts of one image from its confusion; None: it has no truth."""
    if matrix is None:
        return ImageCounts(name, Counts(np.array([5] * 3)))
    return ImageCounts(name, Counts(np.array(matrix).sum(axis=0), missing, np.array(matrix)), has_truth=True)


def report_of(*images, names=NAMES):
    return build_report("done", [{"name": name} for name in names], (Semantic(),), images, model={"name": "unet", "sha256": "ab"})


def random_run(seed, images=12):
    rng = np.random.default_rng(seed)
    return [image(f"image{index}", rng.integers(1, 900, (3, 3))) for index in range(images)]


def compare(first, second, **options):
    return compare_reports(first, second, ("runs/a", "runs/b"), **options)


def matrix_of(hits, misses=10):
    return [[hits, misses, 0], [0, 100, 0], [0, 0, 0]]


@pytest.mark.parametrize("seed", [0, 5])
def test_the_intervals_are_those_of_scipy(seed):
    """Of two runs over 12 images, each class has the interval of scipy's paired bootstrap with the same seed."""
    runs = [[one.counts.confusion for one in random_run(run)] for run in (1, 2)]
    found = compare(*(report_of(*random_run(run)) for run in (1, 2)), seed=seed)
    for class_id, row in enumerate(found["classes"]):
        pixels = [
            np.array(some, float)
            for run in runs
            for some in (
                [matrix[class_id, class_id] for matrix in run],
                [matrix[class_id].sum() + matrix[:, class_id].sum() - matrix[class_id, class_id] for matrix in run],
            )
        ]

        def difference(hits_a, union_a, hits_b, union_b, axis=-1):
            return hits_b.sum(axis=axis) / union_b.sum(axis=axis) - hits_a.sum(axis=axis) / union_a.sum(axis=axis)

        rng = np.random.default_rng(seed)
        wanted = stats.bootstrap(pixels, difference, paired=True, vectorized=True, method="percentile", rng=rng).confidence_interval
        assert row["interval"] == list(wanted)
        assert row["difference"] == difference(*pixels) == row["b"] - row["a"]
    assert (found["intervals"]["images"], found["intervals"]["seed"]) == (12, seed)


def test_the_pooled_scores_are_those_of_the_reports():
    """Where all images are compared, A and B have the IoU that their own reports have."""
    reports = [report_of(*random_run(run)) for run in (1, 2)]
    found = compare(*reports)
    for key, report in zip(("a", "b"), reports, strict=True):
        assert [row[key] for row in found["classes"]] == [spec["iou"] for spec in report["classes"]]
        assert found["mean"][key] == pytest.approx(report["mean_iou"], rel=1e-15)
        assert found[key]["mean_iou"] == report["mean_iou"]


def test_classes_are_matched_by_name():
    """The order of classes is that of A, whatever their ids are in B."""
    turned = [2, 0, 1]
    second = [
        ImageCounts(one.name, Counts(one.counts.predicted[turned], 0, one.counts.confusion[np.ix_(turned, turned)]), has_truth=True)
        for one in random_run(2)
    ]
    expected = compare(report_of(*random_run(1)), report_of(*random_run(2)))
    assert compare(report_of(*random_run(1)), report_of(*second, names=[NAMES[index] for index in turned])) == expected


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("background", "nucleus", "cell"), "only in runs/a: border; only in runs/b: cell"),
        (("background", "nucleus"), "3 and 2 classes; only in runs/a: border"),
    ],
)
def test_other_classes_are_refused(names, told):
    """Runs with different classes are not compared, and the message names what only one of them has."""
    other = [ImageCounts("image0", Counts(np.ones(len(names), np.int64), 0, np.eye(len(names), dtype=np.int64)), has_truth=True)]
    with pytest.raises(InputError, match=told):
        compare(report_of(*random_run(1)), report_of(*other, names=names))


def test_images_begin_with_the_one_that_lost_most():
    """An image is better or worse from a difference of 0.01 of its mean IoU; one without a pixel to score is similar, and last."""
    hits = {"lost": (100, 50), "gained": (50, 100), "same": (100, 100), "hardly": (1000, 1001)}
    empty = image("empty", [[0] * 3] * 3)
    runs = [report_of(empty, *(image(name, matrix_of(pair[run])) for name, pair in hits.items())) for run in (0, 1)]
    found = compare(*runs)
    assert [(row["name"], row["verdict"]) for row in found["per_image"]] == [
        ("lost", "worse"),
        ("same", "similar"),
        ("hardly", "similar"),
        ("gained", "better"),
        ("empty", "similar"),
    ]
    assert (found["better"], found["worse"], found["similar"]) == (1, 1, 3)
    lost = found["per_image"][0]
    assert [row["difference"] for row in lost["classes"]] == [50 / 60 - 100 / 110, 0.0, None]
    assert lost["difference"] == pytest.approx((50 / 60 - 100 / 110) / 2)
    assert found["per_image"][-1]["difference"] is None


def test_images_that_are_not_compared_are_named():
    """Images of one run alone, and those without truth, change no number; each is named with the reason."""
    shared = [image(f"image{index}", matrix_of(10 * index + 1)) for index in range(6)]
    plain = compare(report_of(*shared), report_of(*shared))
    found = compare(
        report_of(*shared, image("x", matrix_of(1)), image("no truth", None), image("later", matrix_of(9))),
        report_of(image("later", None), image("no truth", None), *shared, image("y", matrix_of(1))),
    )
    assert (found["only_in_a"], found["only_in_b"]) == (["x"], ["y"])
    assert found["left_out"] == [
        {"name": "no truth", "reason": "no truth was counted in A and B"},
        {"name": "later", "reason": "no truth was counted in B"},
    ]
    for key in ("classes", "mean", "per_image", "images", "intervals"):
        assert found[key] == plain[key]
    with pytest.raises(InputError, match=r"no image with truth in both \(6 and 1 images, of which 0 have the same name\)"):
        compare(report_of(*shared), report_of(image("z", matrix_of(1))))


def test_other_truth_is_told():
    """An image that the runs judged by other truth, at another size or over other pixels is compared, with a warning that says so."""
    first = [image(name, matrix_of(100)) for name in ("truth", "size", "missing", "equal")]
    second = [
        image("truth", [[110, 0, 0], [0, 99, 0], [0, 1, 0]]),
        image("size", [[440, 0, 0], [0, 400, 0], [0, 0, 0]]),
        image("missing", matrix_of(93), missing=7),
        image("equal", matrix_of(105, 5)),
    ]
    assert compare(report_of(*first), report_of(*second))["warnings"] == [
        {"name": "truth", "reason": "the truth of nucleus is 100 px in A, 99 px in B"},
        {"name": "size", "reason": "210 px in A, 840 px in B: another resolution, or another image"},
        {"name": "missing", "reason": "the truth of background is 110 px in A, 103 px in B; only pixels with a prediction are counted"},
    ]


def test_the_files_hold_the_same_numbers(tmp_path):
    """comparison.json is the content; comparison.csv has each difference at full precision; `--fresh` removes all that is written."""
    found = compare(report_of(*random_run(1)), report_of(*random_run(2)))
    write_comparison(found, tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text()) == found
    with (tmp_path / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13 * 4
    assert [(row["image"], row["class"]) for row in rows[:4]] == [("all images", name) for name in (*NAMES, "mean")]
    for row, value in zip(rows[:4], [*found["classes"], found["mean"]], strict=True):
        assert [float(row[key]) for key in ("iou a", "iou b", "difference")] == [value["a"], value["b"], value["difference"]]
        assert [float(row[key]) for key in ("interval from", "interval to")] == value["interval"]
    assert {path.name for path in tmp_path.iterdir()} == set(FILES) < set(REPORT_PARTS)


def printed(content):
    console = Console(file=io.StringIO(), soft_wrap=True)
    print_comparison(content, console)
    return console.file.getvalue()


def test_the_tables_are_plain_lines():
    """Outside a terminal each class and each changed image is one line; names cannot steer a terminal."""
    hostile = "\x1b[2Jname"
    hits = {hostile: (100, 50), "gained": (50, 100), "same": (100, 100)}
    runs = [report_of(*(image(name, matrix_of(pair[run])) for name, pair in hits.items())) for run in (0, 1)]
    lines = printed(compare(*runs)).splitlines()
    same = "Both were judged by the same 3 images, some of them by other truth."
    assert lines[:3] == ["A: runs/a (unet), mean IoU 0.9010", "B: runs/b (unet), mean IoU 0.9010", same]
    rows = {words[0]: words[1:] for words in map(str.split, lines) if words}
    assert rows["background"] == ["0.8929", "0.8929", "+0.0000", "-"]
    assert rows["border"] == ["-", "-", "-", "-"]
    assert rows["mean"][2] == "+0.0000"
    assert "Mean IoU 0.901 in A, 0.901 in B: +0.000. Too few images for an interval, so this may be chance." in " ".join(lines)
    assert "Intervals: intervals take at least 5 images with truth; there are 3" in lines
    assert "3 images compared: B is better on 1 and worse on 1, by 0.01 of mean IoU or more; similar on 1." in " ".join(lines)
    assert [line.split()[0] for line in lines if line.startswith(("?[2Jname", "gained", "same"))] == ["?[2Jname", "gained"]


def test_many_changed_images_are_shortened():
    """The terminal shows the ten that lost most and the ten that gained most, and names the file with all."""
    runs = [
        report_of(*(image(f"image{index:02}", matrix_of(hits, 100 - hits)) for index, hits in enumerate(some)))
        for some in (range(20, 70), range(69, 19, -1))
    ]
    lines = printed(compare(*runs)).splitlines()
    shown = [line.split()[0] for line in lines if line.startswith("image") and line[5].isdigit()]
    assert len(shown) == 20
    assert (shown[0], shown[-1]) == ("image49", "image00")
    assert lines[-1].endswith("more: comparison.csv has all")


def test_what_is_not_compared_is_printed():
    """Images of one run, those without truth and those with other truth are named, the first five of each kind."""
    shared = [image(f"image{index}", matrix_of(50)) for index in range(7)]
    other = [image(f"image{index}", matrix_of(50, 9)) for index in range(7)]
    text = printed(compare(report_of(*shared, image("x", None), image("y", None)), report_of(*other, image("y", None))))
    assert text.splitlines()[-10:] == [
        "only in A: x",
        "not compared: 1 image",
        "  y: no truth was counted in A and B",
        "judged by other truth: 7 images",
        *(f"  image{index}: 160 px in A, 159 px in B: another resolution, or another image" for index in range(5)),
        "  and 2 more: comparison.json has all",
    ]


@pytest.fixture
def scores(tmp_path):
    """Write reports: ``scores(name, report)`` returns the folder."""

    def go(name, report):
        write_report(report, tmp_path / name / "report")
        return str(tmp_path / name)

    return go


def test_the_command_writes_beside_the_report_of_a(scores, tmp_path, capsys):
    """The files lie beside A's report, or where -o says; --json prints what comparison.json holds."""
    a, b = (scores(name, report_of(*random_run(run))) for name, run in (("a", 1), ("b", 2)))
    assert main(["report", a, b]) == 0
    assert {path.name for path in (tmp_path / "a" / "report").glob("comparison.*")} == set(FILES)
    assert not list((tmp_path / "b" / "report").glob("comparison.*"))
    capsys.readouterr()
    assert main(["report", a, b, "-o", str(tmp_path / "c"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert content == json.loads((tmp_path / "a" / "report" / "comparison.json").read_text())
    assert content["a"]["output"] == a
    assert main(["report", a, f"{b}/report", "-o", str(tmp_path / "c")]) == 0


def test_files_of_others_are_not_replaced(scores, tmp_path, capsys):
    """A comparison.csv that no comparison has written is kept, and the command ends with exit code 2."""
    a = scores("a", report_of(*random_run(1)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "comparison.csv").write_text("my own table")
    assert main(["report", a, a, "-o", str(tmp_path / "mine")]) == 2
    assert "mine: found comparison.csv, which no comparison has written" in capsys.readouterr().err
    assert (tmp_path / "mine" / "comparison.csv").read_text() == "my own table"


def test_what_cannot_be_compared_is_said(scores, tmp_path, capsys):
    """No report, a damaged one, and one of an earlier version are each a line that says what to do, with exit code 2."""
    a = scores("a", report_of(*random_run(1)))
    old = report_of(*random_run(1))
    for one in old["per_image"]:
        one["classes"] = [{key: value for key, value in spec.items() if key != "true_positives"} for spec in one["classes"]]
    for name, text in (("broken", "{"), ("hollow", '{"format": "gigaseg.report/1"}')):
        (tmp_path / name / "report").mkdir(parents=True)
        (tmp_path / name / "report" / "report.json").write_text(text)
    for other, told in (
        (str(tmp_path / "none"), "no run and no report.json"),
        (str(tmp_path / "broken"), "expected a report.json of gigaseg"),
        (str(tmp_path / "hollow"), "found a report.json that lacks something, or is damaged (KeyError: 'classes')"),
        (scores("old", old), f"Write it again, from the ledger: gigaseg report {tmp_path}/old"),
    ):
        assert main(["report", a, other]) == 2
        assert told in capsys.readouterr().err


def test_two_runs_are_compared_from_their_ledgers(engine, tmp_path, capsys):
    """Two models over 12 pictures: the numbers are those of their reports, also after these are gone, and each run names its model."""
    import tifffile

    rng = np.random.default_rng(4)
    for folder in ("images", "truth"):
        (tmp_path / folder).mkdir()
    for index in range(12):
        truth_YX = np.repeat(np.repeat(rng.integers(0, 2, (4, 4)), 8, axis=0), 8, axis=1)
        tifffile.imwrite(
            tmp_path / "images" / f"p{index:02}.tif", (truth_YX * 60 + rng.normal(90, 40, truth_YX.shape)).clip(0, 255).astype(np.uint8)
        )
        tifffile.imwrite(tmp_path / "truth" / f"p{index:02}.tif", truth_YX.astype(np.uint8))
    keys = {
        "images": ["images"],
        "truth": "truth/{stem}.tif",
        "normalize": None,
        "tiling": {"halo": 0},
        "classes": [{"name": "dark"}, {"name": "bright"}],
    }
    runs = [engine(model={"name": "histogram", **more}, output=name, **keys) for name, more in (("a", {}), ("b", {"smooth": 2.0}))]
    assert [run.code for run in runs] == [0, 0]
    for run in runs:
        (run.folder / "report" / "report.json").rename(run.folder / "kept.json")
    capsys.readouterr()
    assert main(["report", str(runs[0].folder), str(runs[1].folder), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    kept = [json.loads((run.folder / "kept.json").read_text()) for run in runs]
    assert [row["difference"] for row in content["classes"]] == [
        b["iou"] - a["iou"] for a, b in zip(*(one["classes"] for one in kept), strict=True)
    ]
    assert content["mean"]["interval"][0] > 0
    assert content["better"] == content["images"] == 12
    assert content["warnings"] == content["left_out"] == []


def test_the_same_images_are_said_to_be_the_same():
    """A report compared with itself: one truth, the same images; with an image more: they differ."""
    one, more = report_of(*random_run(0, 3)), report_of(*random_run(0, 4))
    assert "Both were judged by the same 3 images." in printed(compare(one, one))
    assert "The images differ: of 3 of A and 4 of B, 3 are in both and compared." in printed(compare(one, more))
