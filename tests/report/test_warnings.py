"""What is to be treated with care is said in few lines, however many images there are."""

from __future__ import annotations

import io

from rich.console import Console

from pipeline.report import print_warnings
from pipeline.report.warnings import warning_lines


def report_of(**warnings):
    return {"per_image": [{"name": name, **({"warnings": list(some)} if some else {})} for name, some in warnings.items()]}


def test_images_of_one_warning_share_a_line():
    """The first three are named, and the others counted."""
    report = report_of(**{f"slide{number}": ["far: treat its mask with care"] for number in range(1500)})
    assert warning_lines(report, 3) == ["slide0, slide1, slide2 and 1497 more: far: treat their masks with care"]


def test_warnings_of_most_images_come_first():
    """Above the limit the images of the others are counted once each."""
    report = report_of(a=["x"], b=["y"], c=["y"], d=["z", "w"], e=())
    assert warning_lines(report, 1) == ["b, c: y", "other warnings: 2 images, see report/per_image.csv"]
    assert warning_lines(report, 2)[2:] == ["other warnings: 1 image, see report/per_image.csv"]
    assert warning_lines(report, 9) == ["b, c: y", "a: x", "d: z", "d: w"]
    assert warning_lines(report_of(a=()), 9) == []


def test_names_and_reasons_are_printed_as_they_are():
    """Neither brackets nor colours of a name are commands of the terminal."""
    console = Console(file=io.StringIO(), soft_wrap=True, width=80)
    print_warnings(report_of(**{"[red]a": ["unlike what [b]x[/b] knows"]}), console)
    assert console.file.getvalue() == "[red]a: unlike what [b]x[/b] knows\n"
