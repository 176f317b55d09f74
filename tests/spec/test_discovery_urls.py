"""Folders, globs, lists and truth at URLs: the names, pairs and files left out that the same files have on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.inputs.discovery import list_images
from pipeline.storage import open_storage
from pipeline.storage._object_store import ObjectStorage

FILES = [
    "in/a.tif",
    "in/deep/b.ome.tif",
    "in/deep/b.ome.tif.msk",
    "in/b.tfw",
    "in/c.ome.zarr/zarr.json",
    "in/c.ome.zarr/0/c/0/0",
    "in/.hidden.tif",
    "in/d/zarr.json",
    "in/d/c/0.tif",
    "in/notes.docx",
    "in/old/run.json",
    "in/old/masks/a.tif",
    "truth/a.png",
    "truth/b_1.png",
    "truth/deep/b.png",
    "truth/c.ome.zarr/zarr.json",
]
RUN = b'{"format": "gigaseg.run/1"}'


@pytest.fixture(params=["disk", "memory", "s3"])
def root(request, tmp_path):
    """The same files in a folder, in memory and in a bucket."""
    url = {"disk": lambda: str(tmp_path), "memory": lambda: f"memory://{tmp_path.name}", "s3": lambda: request.getfixturevalue("s3")}[
        request.param
    ]()
    storage = open_storage(url)
    for key in FILES:
        storage.put(key, RUN if key.endswith("run.json") else b"x")
    return url


def listed(root, *images, truth=None, output="out"):
    """List the images of a config."""
    config = Config(images=images, truth=truth, model={"name": "histogram"}, reader={"name": "auto"}, output=f"{root}/{output}")
    return list_images(config)


def told(inputs):
    """Every problem as text."""
    return "\n".join(map(str, inputs.problems))


def pairs(root, inputs):
    """Name, path and truth of each image, below the root."""
    assert not inputs.problems
    return [(one.name, one.path.removeprefix(root), (one.truth or "").removeprefix(root)) for one in inputs.images]


def test_a_folder_is_searched_as_on_a_disk(root):
    """Stores are one image each; hidden files, side files and outputs of runs are none; what is left out is named."""
    inputs = listed(root, f"{root}/in/")
    assert pairs(root, inputs) == [
        ("a", "/in/a.tif", ""),
        ("c", "/in/c.ome.zarr", ""),
        ("d", "/in/d", ""),
        ("deep/b", "/in/deep/b.ome.tif", ""),
    ]
    assert [(one.path.removeprefix(root), one.reason) for one in inputs.left_out] == [
        ("/in/b.tfw", "no image to this installation"),
        ("/in/notes.docx", "no image to this installation"),
        ("/in/old/", "outputs of an earlier run"),
    ]
    assert [one.direct for one in inputs.images] == [False] * 4


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("in/*.tif", ["a"]),
        ("in/*", ["a", "c", "d"]),
        ("in/**/*.tif", ["a", "deep/b"]),
        ("in/[ab].t?f", ["a"]),
        ("in/old/masks/*.tif", ["a"]),
        ("*/deep/*", ["in/deep/b", "truth/deep/b"]),
    ],
)
def test_globs_match_as_on_a_disk(root, pattern, names):
    """Names are relative to the part before the first wildcard; a store is matched, never entered."""
    assert [one.name for one in listed(root, f"{root}/{pattern}").images] == names


@pytest.mark.parametrize(
    ("template", "truths"),
    [
        ("truth/{name}.png", ["/truth/a.png", "/truth/deep/b.png", ""]),
        ("truth/{stem}_*.png", ["", "/truth/b_1.png", ""]),
        ("truth", ["/truth/a.png", "/truth/deep/b.png", "/truth/c.ome.zarr"]),
        ("truth/", ["/truth/a.png", "/truth/deep/b.png", "/truth/c.ome.zarr"]),
    ],
)
def test_truth_is_paired_as_on_a_disk(root, template, truths):
    """Placeholders, wildcards and a folder of files of the images' names."""
    inputs = listed(root, f"{root}/in", truth=f"{root}/{template}")
    assert [truth for name, _, truth in pairs(root, inputs) if name != "d"] == [truths[0], truths[2], truths[1]]


def test_truth_beside_the_image(root):
    """``{folder}/..`` and ``{image}`` lead to where they lead on a disk."""
    assert pairs(root, listed(root, f"{root}/in/a.tif", truth="{folder}/../truth/{stem}.png"))[0][2] == "/truth/a.png"
    assert pairs(root, listed(root, f"{root}/in/c.ome.zarr", truth="{image}/0"))[0][2] == "/in/c.ome.zarr/0"


def test_a_list_holds_relative_paths_and_urls(root, tmp_path):
    """Relative paths in a list are relative to its folder, also at a URL."""
    lines = f"image,name,truth\n../in/a.tif,first,../truth/a.png\nmemory://elsewhere/b.tif,,\n{root}/in/c.ome.zarr,,\n"
    open_storage(root).put("lists/list.csv", lines.encode())
    assert pairs(root, listed(root, f"{root}/lists/list.csv")) == [
        ("first", "/in/a.tif", "/truth/a.png"),
        ("b", "memory://elsewhere/b.tif", ""),
        ("c", "/in/c.ome.zarr", ""),
    ]
    open_storage(root).put("lists/wrong.csv", b"image,truth\nhttps://me:hidden@host/a.tif,\n../in/a.tif,gone.png\n")
    message = told(listed(root, f"{root}/lists/wrong.csv"))
    assert "wrong.csv:2: image: found https://host/a.tif with a user name" in message
    assert f"wrong.csv:3: truth: found '{root}/lists/gone.png', which does not exist" in message
    assert "hidden" not in message


def test_what_is_not_there_is_named(root):
    """A folder, a glob and a list that do not exist are problems that name them."""
    for entry, message in (("gone/", "does not exist"), ("in/*.jp2", "matches no"), ("gone.csv", "")):
        inputs = listed(root, f"{root}/{entry}")
        assert f"{root}/{entry}".rstrip("/") in told(inputs)
        assert message in told(inputs).replace("matches nothing", "matches no image")
    assert "no truth for any image" in told(listed(root, f"{root}/in/a.tif", truth=f"{root}/gone/{{stem}}.png"))


def test_the_run_s_own_output_is_no_input(root):
    """An output inside the searched folder is not searched."""
    open_storage(root).put("in/out/masks/a.tif", b"x")
    assert "out/masks/a" not in [one.name for one in listed(root, f"{root}/in", output="in/out").images]


def test_names_collide_as_on_a_disk():
    """Two images of one name keep their suffixes; equal ones are refused."""
    storage = open_storage("memory://collide")
    for key in ("a.tif", "a.png", "b/a.tif"):
        storage.put(key, b"x")
    assert [one.name for one in listed("memory://collide", "memory://collide/a.tif", "memory://collide/a.png").images] == ["a.tif", "a.png"]
    assert "which memory://collide/a.tif has already" in told(
        listed("memory://collide", "memory://collide/a.tif", "memory://collide/b/a.tif")
    )


@pytest.mark.parametrize("entry", ["https://host.invalid/folder/", "http://host.invalid/*.tif"])
def test_a_web_server_lists_nothing(entry):
    """A folder or a glob of a web server gets a message that says what to do; no request is made."""
    message = told(listed("memory://web", entry))
    assert f"{entry!r}, a {'glob' if '*' in entry else 'folder'} of a web server" in message
    assert "list their URLs in a CSV" in message


def test_a_folder_costs_one_listing(s3, monkeypatch):
    """However many images and truths there are, each folder is listed once, and no file is asked for."""
    for number in range(30):
        open_storage(s3).put(f"in/{number}.tif", b"x")
        open_storage(s3).put(f"truth/{number}.png", b"x")
    asked = []
    real = ObjectStorage._request
    monkeypatch.setattr(
        ObjectStorage, "_request", lambda *args, **options: asked.append(f"{args[0].url} {args[1]}") or real(*args, **options)
    )
    inputs = listed(s3, f"{s3}/in/", truth=f"{s3}/truth/{{stem}}.png")
    assert len([one for one in inputs.images if one.truth]) == 30
    assert len(asked) <= 4, asked


def test_a_bucket_without_access_is_one_message(s3, monkeypatch, tmp_path: Path):
    """A bucket that is not there is a problem that names it."""
    message = told(listed(str(tmp_path), "s3://gigaseg-no-such-bucket/in/"))
    assert "s3://gigaseg-no-such-bucket/in" in message
