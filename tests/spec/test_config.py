"""The YAML becomes a checked, resolved config; every mistake is told at once, with its line."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config import Config, config_from_mapping, json_schema, load_classes, load_config, load_written_config, parse_bytes, to_yaml
from pipeline.errors import InputError
from pipeline.models.bundle_files import list_bundles

SMALL = "images: [a.tif]\nmodel: histogram\noutput: out\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write a YAML and load it; messages call it ``run.yaml``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tif").touch()

    def loaded(text: str, *overrides: str) -> Config:
        Path("run.yaml").write_text(text)
        return load_config(Path("run.yaml"), overrides)

    return loaded


def refused(load, text: str, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


def test_a_bundle_may_be_named_alone(load):
    """``model: nuclei`` means the bundle, as on the command line; an unknown name is told models and bundles alike."""
    config = load(SMALL.replace("histogram", "nuclei"))
    assert config.model == {"name": "bundle", "path": "nuclei", "tta": "none"} | config.model
    assert "Did you mean 'nuclei'?" in refused(load, SMALL.replace("histogram", "nucleii"))[0]


def test_the_classes_of_the_yaml_count_for_a_model(load):
    """A model with an option ``classes`` takes the number that the YAML lists; what is written under ``model`` wins."""
    classes = "classes: [{name: a}, {name: b}, {name: c}]\n"
    assert load(SMALL + classes).model["classes"] == 3
    assert load((SMALL + classes).replace("histogram", "{name: histogram, classes: 5}")).model["classes"] == 5


def test_only_three_keys_are_required(load, tmp_path):
    """Images, model and output make a config; all else has its documented default."""
    config = load(SMALL)
    assert config.images == (str(tmp_path / "a.tif"),)
    assert config.output == str(tmp_path / "out")
    assert (config.truth, config.classes, config.ignore, config.normalize) == (None,) * 4
    assert (config.reader["name"], [one["name"] for one in config.metrics], [one["name"] for one in config.writers]) == (
        "auto",
        ["semantic"],
        ["ome_zarr"],
    )
    assert (config.tiling.core, config.tiling.halo, config.tiling.stitch) == ("auto", "auto", "crop")
    assert config.compute.model_dump() == {
        "runner": "auto",
        "address": None,
        "actors": "auto",
        "gpus_per_actor": "auto",
        "device": "auto",
        "threads": "auto",
        "backend": "auto",
        "precision": "auto",
        "batch": "auto",
        "memory": "4GiB",
        "deadline": 600.0,
        "attempts": 3,
    }


def test_short_forms_mean_their_long_ones(load):
    """A bare name stands for a plug-in without options, a bare path for a list of one."""
    short = load("images: a.tif\nmodel: histogram\nreader: tiff\nmetrics: [semantic]\nwriters: [tiff]\noutput: out\n")
    long = load(
        "images: [a.tif]\nmodel: {name: histogram}\nreader: {name: tiff}\n"
        "metrics: [{name: semantic}]\nwriters: [{name: tiff}]\noutput: out\n"
    )
    assert short == long
    assert short.writers[0]["name"] == "tiff"


def test_reader_options_need_no_name(load):
    """Options of the reader alone are options of the automatic one."""
    assert load(SMALL + "reader: {level: 2}\n").reader["name"] == "auto"


EVERYTHING_WRONG = """\
images: [a.tif, gone.tif]
classes:
  - {name: background, values: [0]}
  - {name: background, values: [0, 1]}
model:
  name: histogram
  clases: 3
tiling:
  core: abc
  stitch: crob
writers: [tif]
compute: {memory: lots, prcision: fp16}
skipp: tissue
output: out
"""


def test_every_mistake_is_told_at_once_with_its_line(load, tmp_path):
    """Ten mistakes in one file are ten messages: place, what is there, what was expected, the nearest name."""
    compute = "runner, address, actors, gpus_per_actor, device, threads, backend, precision, batch, memory, deadline or attempts"
    got = refused(load, EVERYTHING_WRONG)
    starts = [
        f"run.yaml:1: images.1: found '{tmp_path}/gone.tif', which does not exist; expected a file, a folder",
        "run.yaml:4: classes.1.name: found 'background' a second time; expected each name once",
        "run.yaml:4: classes.1.values: found 0, which 'background' has already; expected each truth value in one class",
        "run.yaml:7: model.clases: found unknown key 'clases'; expected classes, ",
        "run.yaml:9: tiling.core: found 'abc' (text); expected a whole number of at least 1 or auto",
        "run.yaml:10: tiling.stitch: found 'crob'; expected crop, linear or gaussian. Did you mean 'crop'?",
        "run.yaml:11: writers.0.name: found 'tif'; expected ",
        "run.yaml:12: compute.memory: found 'lots'; expected a size above 0 such as 4GiB, 500MB or a number of bytes",
        f"run.yaml:12: compute.prcision: found unknown key 'prcision'; expected {compute}. Did you mean 'precision'?",
        "run.yaml:13: skipp: found unknown key 'skipp'; expected images, ",
    ]
    assert [line[: len(start)] for line, start in zip(got, starts, strict=True)] == starts
    assert got[3].endswith("Did you mean 'classes'?")
    assert got[6].endswith("Did you mean 'tiff'?")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("tiling: {core: 0}", "run.yaml:4: tiling.core: found 0; expected a whole number of at least 1 or auto"),
        ("tiling: {core: 1.5}", "run.yaml:4: tiling.core: found 1.5 (a number); expected a whole number of at least 1 or auto"),
        ("tiling: {core: true}", "run.yaml:4: tiling.core: found true; expected a whole number of at least 1 or auto"),
        ("tiling: {halo: -1}", "run.yaml:4: tiling.halo: found -1; expected a whole number of at least 0 or auto"),
        ("tiling: {block: 0}", "run.yaml:4: tiling.block: found 0; expected a whole number of at least 1 or auto"),
        (
            "tiling: {core: 512, block: 1000}",
            "run.yaml:4: tiling.block: found 1000; expected a multiple of core (512), such as 512 or 1024",
        ),
        ("tiling: {core: 512, block: 10}", "run.yaml:4: tiling.block: found 10; expected a multiple of core (512), such as 512"),
        ("compute: {gpus_per_actor: 0.3}", "run.yaml:4: compute.gpus_per_actor: found 0.3; expected 1, or 1/k with a whole k"),
        ("compute: {gpus_per_actor: 2}", "run.yaml:4: compute.gpus_per_actor: found 2; expected 1, or 1/k with a whole k"),
        ("compute: {threads: 0}", "run.yaml:4: compute.threads: found 0; expected a whole number of at least 1 or auto"),
        ("compute: {actors: '8'}", "found '8' (text); expected a whole number of at least 1 or auto. Write 8, without quotes."),
        ("compute: {deadline: 1e-3}", "found '1e-3' (text); expected a number above 0. Write 0.001, without quotes."),
        ("compute: {deadline: .inf}", "run.yaml:4: compute.deadline: found inf"),
        ("compute: {batch: 0}", "run.yaml:4: compute.batch: found 0"),
        ("compute: {memory: 0}", "run.yaml:4: compute.memory: found 0; expected a size above 0"),
        ("compute: {memory: [4]}", "run.yaml:4: compute.memory: found [4] (a list); expected a size"),
        ("compute: {runner: seriel}", "run.yaml:4: compute.runner: found 'seriel'; expected auto, "),
        ("compute: {precision: fp61}", "found 'fp61'; expected auto, fp32, bf16, fp16 or int8. Did you mean 'fp16'?"),
        ("truth: t/{stam}.png", "run.yaml:4: truth: found {stam}; expected {stem}, {name}, {image} or {folder}. Did you mean 'stem'?"),
        ("ignore: red", "run.yaml:4: ignore: found 'red'; expected a whole number, a colour '#rrggbb' or null"),
        ("ignore: 1.5", "run.yaml:4: ignore: found 1.5 (a number); expected a whole number, a colour '#rrggbb' or null"),
        ("instances: componnets", "run.yaml:4: instances.name: found 'componnets'; expected auto, border, components, "),
        ("instances: true", "run.yaml:4: instances: found true; expected auto, the name of a method, {name: ..., option: ...} or null"),
        ("instances: [components]", "expected auto, the name of a method, {name: ..., option: ...} or null"),
        (
            "instances: nuclei\nmetrics: [semantic, instances]\nwriters: [ome_zarr, objects]",
            "instances.name: found 'nuclei'; expected auto",
        ),
        ("instances: auto\nmetrics: [instances]", "such as `instances: {name: components, of: [CLASS]}`"),
        ("instances: {name: components, of: []}", "instances.of: found []; expected a list of at least 1"),
        ("instances: {name: components, min_area: 9, max_area: 8}", "instances.max_area: found 8; expected at least min_area, which is 9"),
        ("instances: auto", "run.yaml:4: instances: found auto; expected border, components, "),
        (
            "metrics: [semantic, instances]",
            "run.yaml:4: metrics.1.name: found 'instances' without `instances`; expected `instances` in the YAML",
        ),
        (
            "normalize: percentil",
            "found 'percentil' (text); expected percentile, zscore, contrast, {mean: [..], std: [..]} or null. Did you mean 'percentile'?",
        ),
        ("normalize: {mean: [1]}", "run.yaml:4: normalize.std is missing; expected a list of numbers, one for each channel"),
        ("normalize: {mean: [1], std: [1, 2]}", "run.yaml:4: normalize.std: found 2 numbers; expected as many as in mean (1)"),
        ("normalize: {mean: [1], std: [0.0]}", "run.yaml:4: normalize.std.0: found 0.0; expected a number above 0"),
        ("normalize: {mean: [1, x], std: [1, 1]}", "run.yaml:4: normalize.mean.1: found 'x' (text); expected a number"),
        ("normalize: {mean: [1], std: [1], sdt: [1]}", "run.yaml:4: normalize.sdt: found unknown key 'sdt'; expected mean or std"),
        ("classes: [{name: a}]", "run.yaml:4: classes: found [{'name': 'a'}]; expected a list of at least 2"),
        ("classes:\n  - {name: a}\n  - {values: [1]}", "run.yaml:6: classes.1.name is missing; expected text"),
        (
            "classes:\n  - {name: a}\n  - {name: b, values: [1]}",
            "classes.0.values is missing; expected a list or other. 'b' has `values`, so every class needs it. Add values, or remove them",
        ),
        (
            "classes:\n  - {name: a, values: other}\n  - {name: b, values: other}",
            "run.yaml:6: classes.1.values: found other, which 'a' has already; expected one class with `values: other`",
        ),
        ("classes:\n  - {name: a, color: blue}\n  - {name: b}", "run.yaml:5: classes.0.color: found 'blue'; expected '#rrggbb' or null"),
        ("classes:\n  - {name: a, values: 3}\n  - {name: b}", "run.yaml:5: classes.0.values: found 3 (a whole number); expected a list"),
        (
            "classes:\n  - {name: a, values: [x]}\n  - {name: b}",
            "run.yaml:5: classes.0.values.0: found 'x' (text); expected a whole number",
        ),
        ("metrics: semantc", "run.yaml:4: metrics.0.name: found 'semantc'; expected "),
        ("writers: [tiff, tiff]", "run.yaml:4: writers.1.name: found 'tiff' a second time; expected each name once"),
        ("writers: [{compression: none}]", "run.yaml:4: writers.0.name is missing; expected "),
        ("skip: {name: regions}", "run.yaml:4: skip.path is missing; expected the path of polygons or a mask"),
        ("skip: {name: nodata, as: nothing}", "run.yaml:4: skip.as: found 'nothing'; expected none or background"),
        ("skip: {name: nodata, skipped_as: none}", "run.yaml:4: skip.skipped_as: found unknown key 'skipped_as'; expected as"),
        ("reader: 5", "run.yaml:4: reader: found 5 (a whole number); expected a name, or {name: ..., option: ...}"),
        ("reader: {level: -1}", "run.yaml:4: reader.level: found -1; expected a whole number of at least 0"),
        ("reader: {planes: {z: a}}", "run.yaml:4: reader.planes.z: found 'a' (text); expected a whole number or a list"),
        ("tilling: {}", "run.yaml:4: tilling: found unknown key 'tilling'; expected images, "),
        ("truth: a\ntruth: b", "run.yaml:5: truth: found the key 'truth' a second time (first on line 4); expected each key once"),
        ("tiling: {core: 1,\n  core: 2}", "run.yaml:5: tiling.core: found the key 'core' a second time (first on line 4)"),
        ("1: 2", "run.yaml:4: found the key '1'; expected keys that are text. Put it in quotes."),
        ("? [a]\n: 2", "run.yaml:4: found the key 'a list or a mapping'; expected keys that are text"),
        ("truth: !!python/object/apply:os.system [ls]", "run.yaml:4: truth: found the tag !!python/object/apply:os.system; expected plain"),
        ("truth: !secret x", "run.yaml:4: truth: found the tag !secret; expected plain YAML without tags"),
        ("ignore: !!int x", "run.yaml:4: ignore: found 'x'; expected a value of type int"),
        ("<<: 3", "run.yaml:4: found <<: 3; expected a mapping to merge"),
        ("truth: {image}/labels/x", '). Text that begins with * or { needs quotes, as in "*.png" and "{stem}.png".'),
        ("truth: {image}[0].png", "Text that begins with * or { needs quotes"),
        (
            "truth: *.png",
            "run.yaml:4: found invalid YAML (expected alphabetic or numeric character, but found '.'). Text that begins with *",
        ),
        ("writers:\n  - *", "Text that begins with * or { needs quotes"),
        ("writers: [tiff, *png]", "run.yaml:4: found invalid YAML (found undefined alias 'png'). Text that begins with *"),
    ],
)
def test_a_mistake_is_told_in_one_line(load, lines, message):
    """Each impossible value gives one message with its line, what was found and what is allowed."""
    got = refused(load, SMALL + lines + "\n")
    assert len(got) == 1
    assert message in got[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: histogram\noutput: out\n", "run.yaml: images is missing; expected a list of files, folders"),
        ("images: []\nmodel: histogram\noutput: out\n", "run.yaml:1: images: found []; expected a list of files"),
        (
            "images: ['']\nmodel: histogram\noutput: out\n",
            "run.yaml:1: images.0: found '' (text); expected a file, folder, glob, URL or CSV list",
        ),
        ("images: a.tif\noutput: out\n", "run.yaml: model is missing; expected a name, or {name: ..., option: ...}"),
        ("images: a.tif\nmodel: {}\noutput: out\n", "run.yaml:2: model.name is missing; expected "),
        ("images: a.tif\nmodel: {name: 3}\noutput: out\n", "run.yaml:2: model.name: found 3 (a whole number); expected "),
        ("images: a.tif\nmodel: histogramm\noutput: out\n", "Did you mean 'histogram'?"),
        ("images: a.tif\nmodel: no.such.module\noutput: out\n", "run.yaml:2: model.name: found 'no.such.module'; expected "),
        ("images: a.tif\nmodel: histogram\n", "run.yaml: output is missing; expected a path"),
        (
            "images: a.tif\nmodel: histogram\noutput: tape://b/o\n",
            "run.yaml:3: output: found the scheme tape://; expected a path, file://, s3://, gs://, az:// or memory://.",
        ),
        ("images: a.tif\nmodel: histogram\noutput: ''\n", "run.yaml:3: output: found ''; expected a path, or the URL of a storage"),
        ("", "run.yaml: found null; expected a mapping with images, model, output, ..."),
        ("- a\n", "run.yaml: found ['a'] (a list); expected a mapping with"),
        ("a: [1\n", "run.yaml:2: found invalid YAML (expected ',' or ']'"),
        ("a: 1\n---\nb: 1\n", "run.yaml:2: found invalid YAML (but found another document)"),
        ("a: *b\n", "run.yaml:1: found invalid YAML (found undefined alias 'b')"),
        ("[" * 3000, "run.yaml: found lists or mappings nested too deeply"),
        ("a: &a [*a]\n", "run.yaml:1: found more than a config can hold; expected at most 50 levels"),
    ],
)
def test_a_file_that_is_no_config_is_refused(load, text, message):
    """A broken or empty file, or one without what is required, is one message."""
    got = refused(load, text)
    assert len(got) == 1
    assert message in got[0]


def test_aliases_cannot_blow_a_file_up(load):
    """A few hundred bytes that stand for a billion values are refused, in mappings to merge as well as in lists."""
    names = "abcdefghi"
    lists = "".join(
        f"{name}: &{name} [{', '.join([f'*{last}' if last else 'x'] * 9)}]\n" for last, name in zip(" " + names, names, strict=False)
    )
    merged = "a: &a {k: 1}\n" + "".join(f"{name}: &{name}\n  <<: [{', '.join([f'*{last}'] * 9)}]\n" for last, name in pairwise(names))
    for bomb in (lists.replace("* ", "x"), merged):
        assert "more than a config can hold; expected at most 200000 values" in refused(load, bomb)[0]


def test_aliases_and_merges_mean_what_yaml_says(load):
    """Anchors share values, a merged mapping gives way to the keys beside it, and a mistake in it keeps its line."""
    shared = (
        "reader: &r {name: tiff, level: 1}\nmodel: histogram\nimages: a.tif\noutput: out\ntiling:\n  <<: {core: 64, halo: 8}\n  core: 32\n"
    )
    config = load(shared)
    assert (config.tiling.core, config.tiling.halo) == (32, 8)
    assert refused(load, shared.replace("halo: 8", "halo: x"))[0].startswith("run.yaml:6: tiling.halo: found 'x' (text)")


def test_a_file_that_cannot_be_read_is_one_message(tmp_path):
    """No such file, a folder, and bytes that are no text are refused without a traceback."""
    binary = tmp_path / "image.yaml"
    binary.write_bytes(b"II*\x00\xff\xd8")
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (8 * 2**20 + 1))
    for path, message in [
        (tmp_path / "gone.yaml", "No such file or directory.; expected a YAML file"),
        (tmp_path, "Is a directory.; expected a YAML file"),
        (binary, "found byte 0xff at position 4; expected YAML in UTF-8"),
        (huge, "found more than 8 MiB; expected a YAML file. List many images in a CSV file."),
    ]:
        with pytest.raises(InputError, match=message):
            load_config(path)


def test_set_changes_what_the_file_says(load):
    """``--set`` reaches mappings, list items, short forms and defaults, and its value is YAML."""
    overrides = [
        "tiling.core=64",
        "model.classes=3",
        "writers.0.probs=true",
        "classes=[{name: a}, {name: b}]",
        "classes.1.name=c",
        "truth=",
    ]
    config = load(SMALL + "truth: t/{stem}.png\n", *overrides)
    assert config.tiling.core == 64
    assert config.model["classes"] == 3
    assert config.writers[0]["probs"] is True
    assert [one.name for one in config.classes or ()] == ["a", "c"]
    assert config.truth is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tiling.core=abc", "--set tiling.core: found 'abc' (text); expected a whole number of at least 1 or auto"),
        ("tilling.core=5", "--set tilling.core: found unknown key 'tilling'; expected images, "),
        ("tiling={core: 0}", "--set tiling: tiling.core: found 0; expected a whole number of at least 1 or auto"),
        ("model.clases=3", "--set model.clases: found unknown key 'clases'"),
        ("tiling", "--set tiling: found 'tiling'; expected key.sub=value, such as tiling.core=512"),
        ("=3", "--set =3: found '=3'; expected key.sub=value"),
        ("tiling..core=3", "--set tiling..core=3: found 'tiling..core=3'; expected key.sub=value"),
        ("writers.3.name=x", "--set writers.3.name: found index '3'; expected 0 to 0"),
        ("writers.x=1", "--set writers.x: found index 'x'; expected 0 to 0"),
        ("output.sub=1", "--set output.sub: found 'out' (text) at output; expected a mapping or a list"),
        ("truth=[", "--set truth:1: found"),
        ("images=[*.png]", "). Text that begins with * or { needs quotes"),
        ("images=[a.tif] #1", "--set images: found '#1' behind '[a.tif]'; expected nothing behind it. Put text in quotes"),
        ("output='out' #1", "--set output: found '#1' behind"),
        ("tiling.core=0100", "--set tiling.core: found '0100' (text); expected a whole number"),
        ("truth=!!python/name:os.system x", "--set truth:1: found the tag !!python/name:os.system; expected plain YAML without tags"),
    ],
)
def test_a_mistake_in_set_names_the_option(load, override, message):
    """A wrong ``--set`` is told as the option that was typed, not as a line of the file."""
    got = refused(load, SMALL, override)
    assert len(got) == 1
    assert message in got[0]


def test_paths_are_relative_to_where_they_were_written(load, tmp_path, monkeypatch):
    """Paths in the file count from the file, those of ``--set`` from the working directory; URLs, samples and templates stay."""
    load("images: ['*.tif', a.tif, 's3://b/a.ome.zarr', 'sample:nuclei', /abs/x.tif]\ntruth: t/{stem}.png\nmodel: histogram\noutput: out\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_config(tmp_path / "run.yaml", ["output=here", "images.1=b.tif"])
    assert config.images == (f"{tmp_path}/*.tif", f"{elsewhere}/b.tif", "s3://b/a.ome.zarr", "sample:nuclei", "/abs/x.tif")
    assert config.truth == f"{tmp_path}/t/{{stem}}.png"
    assert config.output == str(elsewhere / "here")
    stays = load_config(tmp_path / "run.yaml", ["truth='{image}/labels/x'"])
    assert stays.truth == "{image}/labels/x"


def test_a_folder_with_brackets_in_its_name_is_no_wildcard(tmp_path):
    """A relative glob works in a folder whose name looks like a glob."""
    folder = tmp_path / "plate[1]"
    folder.mkdir()
    (folder / "run.yaml").write_text("images: ['*.tif', a.tif]\nmodel: histogram\noutput: out\n")
    assert load_config(folder / "run.yaml").images == (f"{tmp_path}/plate[[]1]/*.tif", f"{folder}/a.tif")


def test_paths_in_plugin_options_become_absolute(load, tmp_path):
    """An option that is a path counts from the file too."""
    config = load("images: a.tif\nmodel: {name: unet, weights: w/unet.safetensors}\noutput: out\n")
    assert config.model["weights"] == f"{tmp_path}/w/unet.safetensors"


@pytest.mark.parametrize(
    ("path", "resolved"), [("nuclei", "nuclei"), ("mine/nuclei", "{here}/mine/nuclei"), ("{here}/mine/nuclei", "{here}/mine/nuclei")]
)
def test_a_bundle_without_a_slash_is_a_name(load, tmp_path, path, resolved):
    """A bundle's path without a slash is left to be looked up; any other is a path."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nuclei").symlink_to(list_bundles()["nuclei"])
    config = load(f"images: a.tif\nmodel: {{name: bundle, path: {path.format(here=tmp_path)}}}\noutput: out\n")
    assert config.model["path"] == resolved.format(here=tmp_path)


def test_a_resolved_config_is_itself_a_config(load):
    """The written config holds every default and path, and loading it from anywhere gives an equal one."""
    rich = """\
images: ['*.tif', "sample:nuclei", 'a.tif']
truth: "{image}/labels/x"
classes: [{name: a, values: [0, -1]}, {name: "nö: yes", color: "#e6194b", values: other}]
ignore: "#ffffff"
model: {name: unet, channels: 3, classes: 2}
normalize: {mean: [1, 2, 3], std: [1, 1, 0.5]}
reader: {name: tiff, channels: [0, 2], planes: {z: [1, 2]}}
tiling: {core: 64, halo: 0, block: 128, stitch: linear}
writers: [{name: ome_zarr, probs: true}, tiff]
compute: {memory: 500MB, gpus_per_actor: 0.5, threads: 2}
output: 2024-01-01
"""
    config = load(rich)
    text = to_yaml(config)
    Path("other").mkdir()
    written = Path("other/config.yaml")
    written.write_text(text)
    again = load_config(written)
    assert again == config
    assert to_yaml(again) == text
    assert config.model["padding"] == "same"
    assert config.output.endswith("/2024-01-01")
    assert yaml.safe_load(text)["compute"]["deadline"] == 600.0


def test_a_folder_of_an_earlier_run_can_be_gone_on_with(load, tmp_path):
    """A written config is read as it is; an unknown key is refused there, too."""
    written = tmp_path / "config.yaml"
    written.write_text(to_yaml(load(SMALL)))
    assert load_written_config(written.read_text(), str(written)) == load(SMALL)
    written.write_text(to_yaml(load(SMALL)) + "instance: flows\n")
    with pytest.raises(InputError, match="found unknown key 'instance'"):
        load_written_config(written.read_text(), str(written))


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), st.integers())
@example("\x85", 0)
def test_any_text_survives_the_round_trip(name, value):
    """Whatever a class is called, the written config reads back as the same."""
    config = Config(
        images=("/a.tif",),
        model={"name": "histogram"},
        output="/o",
        classes=[{"name": name, "values": [value]}, {"name": name + "2", "values": "other"}],
    )
    assert Config.model_validate(yaml.safe_load(to_yaml(config))) == config


def test_a_config_can_be_made_without_a_file(tmp_path):
    """A workflow's own mapping is resolved and checked like a file, and is not changed."""
    mapping: dict[str, Any] = {"images": ["a.tif"], "model": {"name": "histogram"}, "output": "out"}
    config = config_from_mapping(mapping, tmp_path, "gigaseg segment")
    assert config.output == str(tmp_path / "out")
    assert mapping == {"images": ["a.tif"], "model": {"name": "histogram"}, "output": "out"}
    with pytest.raises(InputError, match=r"gigaseg segment: tiling\.core: found 0"):
        config_from_mapping({**mapping, "tiling": {"core": 0}}, tmp_path, "gigaseg segment")


def test_a_config_knows_where_its_keys_are(load):
    """Later checks name the same file and line, and two configs that differ only in this are equal."""
    config = load("\n" + SMALL)
    assert config.where("images.0") == "run.yaml:2: images.0"
    assert config.where("tiling.core") == "run.yaml: tiling.core"
    assert config == load(SMALL)


@pytest.mark.parametrize(
    "text", ["- {name: a}\n- {name: b, values: [1]}\n", "images: x\nclasses:\n- {name: a}\n- {name: b, values: [1]}\n"]
)
def test_classes_can_be_read_alone(tmp_path, text):
    """A list of classes is read from a file of its own or from a whole config, and checked alike."""
    path = tmp_path / "classes.yaml"
    path.write_text(text.replace("a}", "a, values: other}"))
    assert [(one.name, one.values) for one in load_classes(path)] == [("a", "other"), ("b", (1,))]
    path.write_text(text)
    line = text.splitlines().index("- {name: a}") + 1
    key = "0.values" if line == 1 else "classes.0.values"
    with pytest.raises(InputError, match=f"^{path}:{line}: {key} is missing; expected a list or other. 'b' has `values`"):
        load_classes(path)


@pytest.mark.parametrize("text", ["", "just text", "images: x\n", "- {name: a, nam: b}\n- {name: b}\n- {name: b, name: c}\n"])
def test_a_file_without_classes_is_refused(tmp_path, text):
    """Whatever the file holds instead of classes, the answer is a message."""
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}"):
        load_classes(path)


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 2**32), ("500MB", 5 * 10**8), ("1.5kib", 1536), (" 2 TB ", 2 * 10**12), (7, 7), ("8", 8), ("10b", 10)]
)
def test_sizes_are_bytes(text, size):
    """Decimal units count in thousands, binary ones in 1024."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "4 apples", "-1GB", 0, "0GiB", "0.1", "1e9", True])
def test_what_is_no_size_is_refused(text):
    """A size has a number above 0 and a known unit."""
    with pytest.raises(ValueError, match="such as 4GiB"):
        parse_bytes(text)


@pytest.mark.parametrize("share", [1, 0.5, 0.25, 0.333, 0.33, 0.2, "auto"])
def test_a_share_of_a_gpu_is_one_over_a_whole_number(load, share):
    """1, 1/2, 1/3 as a person writes it, and auto are taken."""
    assert load(SMALL + f"compute: {{gpus_per_actor: {share}}}\n").compute.gpus_per_actor == share


def test_the_schema_describes_every_key(load):
    """Editors get a valid schema with descriptions and plug-in options; it takes good files and refuses bad ones."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert all(key.get("description") for key in schema["properties"].values())
    assert all(
        key.get("description") for kind in ("ClassSpec", "Tiling", "Compute") for key in schema["$defs"][kind]["properties"].values()
    )
    good = [
        yaml.safe_load(SMALL),
        yaml.safe_load(to_yaml(load(SMALL))),
        {**yaml.safe_load(SMALL), "writers": ["tiff"], "reader": {"level": 1}},
    ]
    assert [list(validator.iter_errors(one)) for one in good] == [[], [], []]
    for bad in ({"tiling": {"stitch": "crob"}}, {"model": {"name": "histogram", "clases": 3}}, {"tilling": {}}):
        assert not validator.is_valid({**yaml.safe_load(SMALL), **bad})


def test_reading_a_config_imports_nothing_heavy(load):
    """Config and schema need no torch, no Zarr and no Ray."""
    load(SMALL)
    code = "import sys; from pathlib import Path; from pipeline.config import *; load_config(Path('run.yaml')); json_schema()"
    code += "; print([name for name in ('torch', 'zarr', 'ray', 'dask', 'tifffile', 'scipy', 'skimage') if name in sys.modules])"
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
