"""Manifests for Kubernetes: valid by the schemas, no secret in them, no path that pods would not see."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import textwrap
from pathlib import Path

import pytest
import yaml

from pipeline.config import config_from_mapping
from pipeline.errors import InputError
from pipeline.plugins import build
from pipeline.targets import Submission
from pipeline.targets._manifests import Toleration, Volume
from pipeline.targets.kuberay import KubeRay
from tests.spec.kubernetes_schemas import needs_definitions, problems_of

RUN = {"images": ["/data/slides"], "model": {"name": "histogram", "classes": 2}, "output": "/data/out"}
VOLUMES = [
    {"name": "data", "claim": "slides", "mount": "/data"},
    {"name": "scratch", "host_path": "/mnt/scratch", "mount": "/scratch"},
    {"name": "old", "nfs": "nas:/export/old", "mount": "/data/old", "read_only": True},
]
FULL = {
    "image": "registry/gigaseg:1.0",
    "nodes": 3,
    "gpus_per_node": 2,
    "cpus": 8,
    "memory": "64Gi",
    "namespace": "science",
    "node_selector": {"gpu": "l4"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "volumes": VOLUMES,
    "secrets": ["s3-credentials"],
    "pull_secrets": ["registry"],
    "service_account": "runner",
    "ttl": 60,
    "backoff": 2,
    "active_deadline": 3600,
    "suspend": True,
    "tls": True,
}
PLAIN = {"image": "gigaseg", "volumes": VOLUMES[:1]}
SCHEDULES = [
    {},
    {"schedule": "0 2 * * *"},
    {"schedule": "@daily", "time_zone": "Europe/Berlin", "cron": "plain", "namespace": "science"},
]


def submission(tmp_path, **changes):
    return Submission(config_from_mapping({**RUN, **changes}, tmp_path), "ray")


def objects(tmp_path, options, **changes):
    run = submission(tmp_path, **changes)
    return build("targets", {"name": "kuberay", **options}, "--to").objects(run, f"{run.name}-1")


def job_of(things):
    """The spec of the RayJob, also of one that a schedule creates."""
    kinds = {thing["kind"]: thing for thing in things}
    if "RayCronJob" in kinds:
        return kinds["RayCronJob"]["spec"]["jobTemplate"]
    packed = kinds["ConfigMap"]["data"].get("rayjob.yaml")
    return (yaml.safe_load(packed) if packed else kinds["RayJob"])["spec"]


def every_value(thing):
    """Yield the leaves of nested data."""
    parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list) else None
    yield from [thing] if parts is None else itertools.chain.from_iterable(map(every_value, parts))


@needs_definitions
@pytest.mark.parametrize("auth", ["token", "disabled", None])
@pytest.mark.parametrize("timed", SCHEDULES, ids=["once", "ray", "plain"])
@pytest.mark.parametrize("options", [PLAIN, FULL], ids=["plain", "full"])
def test_every_manifest_is_valid(options, timed, auth, tmp_path):
    """Every object is what its schema says, with no field that it does not know; so is the RayJob that a CronJob creates."""
    things = objects(tmp_path, {**options, **timed, "auth": auth})
    created = things[0]["data"].get("rayjob.yaml")
    everything = [*things, *([yaml.safe_load(created)] if created else [])]
    assert {thing["kind"]: problems_of(thing) for thing in everything} == {thing["kind"]: [] for thing in everything}
    assert (
        list(yaml.safe_load_all(build("targets", {"name": "kuberay", **options, **timed, "auth": auth}).render(submission(tmp_path))))
        == things
    )


@needs_definitions
@pytest.mark.parametrize("option", [name for name in FULL if name not in PLAIN])
def test_each_option_alone_is_valid(option, tmp_path):
    """An option needs no other one."""
    assert not [problem for thing in objects(tmp_path, {**PLAIN, option: FULL[option]}) for problem in problems_of(thing)]


def broken(things, change):
    """Break a RayJob in one place, and return what the schema says."""
    thing = json.loads(json.dumps(things[-1]))
    change(thing)
    return problems_of(thing)


@needs_definitions
@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda job: job["spec"].update(backoffLimt=1), "backoffLimt"),
        (lambda job: job["spec"].update(ttlSecondsAfterFinished="600"), "ttlSecondsAfterFinished"),
        (lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(mode="none"), "authOptions.mode"),
        (lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "num-cpus"),
        (lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("groupName"), "groupName"),
        (lambda job: job["spec"]["submitterPodTemplate"]["spec"]["containers"][0].update(envFrm=[]), "envFrm"),
    ],
)
def test_a_broken_manifest_is_caught(change, field, tmp_path):
    """A misspelt field, a text for a number, an unknown choice, a missing field: each is named. The validation is worth something."""
    found = broken(objects(tmp_path, PLAIN), change)
    assert len(found) == 1
    assert field in found[0]


def test_a_broken_core_object_is_caught(tmp_path):
    """A misspelt field of a CronJob is named."""
    things = objects(tmp_path, {**PLAIN, **SCHEDULES[2]})
    assert "concurencyPolicy" in str(broken(things, lambda cron: cron["spec"].update(concurencyPolicy="Forbid")))


@pytest.mark.parametrize("timed", SCHEDULES, ids=["once", "ray", "plain"])
def test_rules_that_only_a_server_checks_cannot_be_broken(timed, tmp_path):
    """RayJob's five rules in CEL are about ``managedBy``, ``deletionStrategy`` and the backend of fault tolerance: none is written.

    Nor what the operator refuses: a time to live needs the cluster to be removed, and names have at most 47 letters.
    """
    things = objects(tmp_path, {**FULL, **timed})
    spec = job_of(things)
    cluster = spec["rayClusterSpec"]
    assert {"managedBy", "deletionStrategy"}.isdisjoint(spec)
    assert {"managedBy", "gcsFaultToleranceOptions"}.isdisjoint(cluster)
    assert spec["shutdownAfterJobFinishes"] is True
    assert all(len(thing["metadata"]["name"]) + len("-12345") <= 47 for thing in things)


@pytest.mark.parametrize("timed", SCHEDULES, ids=["once", "ray", "plain"])
def test_a_manifest_holds_references_and_no_value_of_the_environment(timed, tmp_path, monkeypatch):
    """Secrets are named; nothing of this process' environment is written, and no container has a variable of its own."""
    secrets = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "RAY_AUTH_TOKEN": "0123456789abcdef"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    things = objects(tmp_path, {**FULL, **timed}, output="s3://bucket/run")
    assert not [value for value in secrets.values() if value in json.dumps(things)]
    cluster = job_of(things)["rayClusterSpec"]
    for pod in (cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]):
        (container,) = pod["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "s3-credentials"}}]
        assert "env" not in container


@pytest.mark.parametrize("timed", SCHEDULES, ids=["once", "ray", "plain"])
def test_nothing_runs_as_root(timed, tmp_path):
    """Every pod of every object keeps to the restricted security standard, and only the creating Job may call the API server."""

    def pods(thing):
        if isinstance(thing, dict) and "containers" in thing:
            yield thing
        for part in thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list) else ():
            yield from pods(part)

    things = objects(tmp_path, {**FULL, **timed})
    found = [*pods(things), *pods(job_of(things))]
    assert len(found) >= 3
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert pod.get("automountServiceAccountToken") is False or pod["initContainers"][0]["name"] == "create"


def test_actors_and_the_driver_find_what_they_need(tmp_path):
    """Workers have the GPUs, the selector, the volumes and the secrets; the head has the config and takes no actor."""
    config, job = objects(tmp_path, FULL)
    assert yaml.safe_load(config["data"]["config.yaml"])["output"] == "/data/out"
    assert job["spec"]["entrypoint"] == "gigaseg run /config/config.yaml"
    assert "metadata" not in job["spec"]  # KubeRay writes it into a command line of bash, in which `$(...)` of a path would run
    head, worker = (job["spec"]["rayClusterSpec"][key] for key in ("headGroupSpec", "workerGroupSpecs"))
    assert head["rayStartParams"] == {"num-cpus": "0"}
    in_head = head["template"]["spec"]["containers"][0]["volumeMounts"]
    assert [mount["mountPath"] for mount in in_head] == ["/data", "/scratch", "/data/old", "/config"]
    pod = worker[0]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]] == ["/data", "/scratch", "/data/old"]
    assert pod["nodeSelector"] == {"gpu": "l4"}
    assert "nodeSelector" not in head["template"]["spec"]
    assert (worker[0]["replicas"], worker[0]["maxReplicas"]) == (3, 3)


def test_a_plain_cronjob_forbids_overlapping_runs(tmp_path):
    """It waits for the RayJob that it creates, and may do that and no more."""
    *_, cron = objects(tmp_path, {**PLAIN, **SCHEDULES[2]})
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert (pod["initContainers"][0]["args"][0], pod["containers"][0]["args"][0]) == ("create", "wait")
    role = next(thing for thing in objects(tmp_path, {**PLAIN, **SCHEDULES[2]}) if thing["kind"] == "Role")
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list", "watch"]}]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"output": "/home/me/out"}, {"output": "/home/me/out; expected a path below a mount (/data)"}),
        (
            {"images": ["/data/a", "/home/me/b/*.tif"], "truth": "/truth/{stem}.png"},
            {"images.1": "/home/me/b/*.tif", "truth": "/truth/{stem}.png"},
        ),
        ({"skip": {"name": "regions", "path": "/regions/{stem}.geojson"}}, {"skip.path": "/regions/{stem}.geojson"}),
        ({"output": "/database/out"}, {"output": "/database/out"}),
        ({"output": "memory://out"}, {"output": "memory://out"}),
        ({"compute": {"address": "head:6379"}}, {"compute.address": "'head:6379'"}),
        ({"compute": {"runner": "serial"}}, {"compute.runner": "'serial'"}),
    ],
)
def test_what_pods_would_not_see_is_refused(changes, found, tmp_path):
    """A path that no mount covers, inputs and output alike, each by its key; a cluster of another kind."""
    with pytest.raises(InputError) as refused:
        objects(tmp_path, PLAIN, **changes)
    assert [problem.where for problem in refused.value.problems] == list(found)
    assert all(value in str(refused.value) for value in found.values())


def test_an_output_on_a_volume_for_reading_is_refused(tmp_path):
    """The volume with the longest mount counts."""
    assert objects(tmp_path, FULL, images=["/data/old/a.tif"])
    with pytest.raises(InputError, match="/data/old/run, on the read-only volume old"):
        objects(tmp_path, FULL, output="/data/old/run")


def test_urls_need_no_volume(tmp_path):
    """Images, masks and report may all live in buckets."""
    assert objects(tmp_path, {"image": "gigaseg"}, images=["s3://bucket/a.ome.zarr", "sample:nuclei"], output="s3://bucket/run")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--to.image is missing"),
        ({"image": "a", "schedule": "2 o'clock"}, "schedule"),
        ({"image": "a", "schedule": "0 2 * * *", "cron": "plain"}, "a namespace"),
        ({"image": "a", "memory": "lots"}, "memory"),
        ({"image": "a", "tolerations": [{"key": "a", "efect": "NoSchedule"}]}, "efect"),
        ({"image": "a", "volumes": [{"name": "a", "mount": "/a"}]}, "one of claim, host_path, nfs"),
        ({"image": "a", "volumes": [VOLUMES[0], VOLUMES[0]]}, "not data twice"),
        ({"image": "a", "secrets": ["KEY=value"]}, "secrets"),
    ],
)
def test_wrong_options_are_named(options, words):
    """Each by its key, before anything is sent."""
    with pytest.raises(InputError) as refused:
        build("targets", {"name": "kuberay", **options}, "--to")
    assert words in str(refused.value)


def test_a_config_too_large_for_a_configmap_is_refused(tmp_path):
    """With the way out: a CSV."""
    with pytest.raises(InputError, match="List the images in a CSV"):
        objects(tmp_path, PLAIN, images=[f"/data/{'x' * 600}{number}.tif" for number in range(1800)])


@needs_definitions
def test_the_options_in_the_documents_work(tmp_path):
    """Those of workflows/cluster/README.md and of the docstring make valid objects."""
    shown = Path(__file__).parents[2] / "workflows/cluster/README.md"
    (in_readme,) = re.findall(r"^```yaml\n(image: .*?)^```", shown.read_text(), re.MULTILINE | re.DOTALL)
    in_docstring = inspect.cleandoc(KubeRay.__doc__).partition("Example::\n")[2]
    for text in (in_readme, textwrap.dedent(in_docstring)):
        assert not [problem for thing in objects(tmp_path, yaml.safe_load(text)) for problem in problems_of(thing)]


def test_every_option_is_described():
    """What `gigaseg` prints about an option is in its field."""
    assert all(field.description for kind in (KubeRay, Volume, Toleration) for field in kind.model_fields.values())
