"""What Kubernetes is told about a run, as plain data: a RayJob and its config, or what starts one by a schedule.

Field names are those of KubeRay's custom resource definitions (1.4 and newer) and of Kubernetes. No cluster was at hand for this
code: the tests validate every object against the definitions, unknown fields refused, and start no pod.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator
from typing_extensions import override

from pipeline.config import Config, StrictModel, is_url
from pipeline.errors import InputError, Problem
from pipeline.targets import Cron, Submission, Target
from pipeline.validation import Expected, join_keys

__all__ = ["Manifests", "as_yaml"]

API = "ray.io/v1"
LABEL = "app.kubernetes.io/instance"  # holds the name of the run
CONFIG_FOLDER = "/config"
MAX_CONFIG_BYTES = 1 << 20  # of a ConfigMap
HEAD = {"cpu": "2", "memory": "8Gi"}  # holds the driver and Ray's own processes
SUBMITTER = {"cpu": "1", "memory": "1Gi"}
KUBECTL_USER = 65532  # "nobody" of images without a shell; any that is not root does

DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"), Expected("lower-case letters, digits and -")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([KMGT]i?)?$"), Expected("an amount such as '32Gi'")]
ImageName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"), Expected("a container image, such as registry.example.com/gigaseg:1.0")
]
FolderPath = Annotated[str, Field(pattern=r"^/[^/:]+(/[^/:]+)*$"), Expected("an absolute path such as /data")]
SOURCES = ("claim", "host_path", "nfs")


class Volume(StrictModel):
    """A folder that every pod sees under the same path, from exactly one source."""

    name: DnsLabel = Field(description="of the volume, inside the pods")
    mount: FolderPath = Field(description="path inside the pods, as the YAML of the run writes it")
    claim: str | None = Field(default=None, description="name of a PersistentVolumeClaim that several nodes may mount")
    host_path: FolderPath | None = Field(default=None, description="a folder of every node, such as a mounted file system")
    nfs: Annotated[str, Field(pattern=r"^[^:/]+:/"), Expected("SERVER:/PATH")] | None = Field(default=None, description="SERVER:/PATH")
    read_only: bool = Field(default=False, description="whether pods may only read")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(getattr(self, source) is not None for source in SOURCES) != 1:
            raise ValueError(f"one of {', '.join(SOURCES)}")
        return self

    @property
    def source(self) -> dict[str, Any]:
        """The volume of a pod."""
        if self.claim is not None:
            return {"name": self.name, "persistentVolumeClaim": {"claimName": self.claim, "readOnly": self.read_only}}
        if self.host_path is not None:
            return {"name": self.name, "hostPath": {"path": self.host_path, "type": "Directory"}}
        server, _, path = (self.nfs or "").partition(":")
        return {"name": self.name, "nfs": {"server": server, "path": path, "readOnly": self.read_only}}

    def covers(self, path: str) -> bool:
        """Return whether a path lies inside."""
        return path == self.mount or path.startswith(f"{self.mount}/")


class Toleration(StrictModel):
    """A taint of nodes that pods tolerate, with the names of Kubernetes."""

    key: str | None = Field(default=None, description="of the taint; null: every taint")
    operator: Literal["Equal", "Exists"] = Field(default="Equal", description="how the value is compared")
    value: str | None = Field(default=None, description="of the taint")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(default=None, description="of the taint; null: all")


class Manifests(Target):
    """The options of a RayJob, and the objects that they make."""

    image: ImageName = Field(description="container image with gigaseg, such as registry/gigaseg:1.0")
    nodes: int = Field(default=1, ge=1, description="worker pods")
    gpus_per_node: int = Field(default=0, ge=0, description="GPUs of each worker pod")
    cpus: int = Field(default=4, ge=1, description="CPU cores of each worker pod")
    memory: Quantity = Field(default="16Gi", description="memory of each worker pod")
    namespace: DnsLabel | None = Field(default=None, description="namespace; null: the one of kubectl's context")
    node_selector: dict[str, str] = Field(default={}, description="labels of the nodes that worker pods run on")
    tolerations: list[Toleration] = Field(default=[], description="taints that the pods tolerate")
    volumes: list[Volume] = Field(default=[], description="folders that every pod sees: inputs, and the output where it is a folder")
    secrets: list[DnsLabel] = Field(default=[], description="names of Secrets whose keys become environment variables, such as AWS_...")
    pull_secrets: list[DnsLabel] = Field(default=[], description="names of Secrets for the image's registry")
    service_account: DnsLabel | None = Field(default=None, description="ServiceAccount of the pods; null: the namespace's default")
    group: int | None = Field(default=1000, ge=1, description="group that owns what is written to claims; null: as the volume has it")
    ttl: int = Field(default=600, ge=0, description="seconds until the pods of an ended run are removed")
    backoff: int = Field(default=0, ge=0, description="how often a failed run is started again, on new pods; it resumes")
    active_deadline: int | None = Field(default=None, ge=1, description="seconds after which the run is ended; null: never")
    suspend: bool = Field(default=False, description="create everything, and start nothing yet")
    schedule: Cron | None = Field(default=None, description='when it runs again and again: "0 2 * * *"')
    time_zone: Annotated[str, Field(min_length=1)] | None = Field(default=None, description="of the schedule: Europe/Berlin")
    cron: Literal["ray", "plain"] = Field(default="ray", description="RayCronJob (KubeRay 1.6), or a plain CronJob that creates RayJobs")
    kubectl_image: ImageName = Field(default="registry.k8s.io/kubectl:v1.34.1", description="image with kubectl, for `cron: plain`")
    ray_version: str = Field(default=importlib.metadata.version("ray"), description="version of Ray in the image")
    auth: Literal["token", "disabled"] | None = Field(
        default="token", description="authentication of the Ray cluster (KubeRay 1.5); null: leave it to an older operator"
    )
    tls: bool = Field(default=False, description="mutual TLS inside the Ray cluster (KubeRay 1.7 with RayClusterMTLS and cert-manager)")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.cron == "plain" and self.schedule is not None and self.namespace is None:
            raise ValueError("a namespace, which `cron: plain` needs to give its Job rights there")
        for key in ("name", "mount"):
            values = [getattr(volume, key) for volume in self.volumes]
            if again := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"volumes with different {key}s, not {again[0]} twice")
        return self

    @override
    def render(self, submission: Submission) -> str:
        return as_yaml(self.objects(submission, f"{submission.name}-1"))

    def objects(self, submission: Submission, name: str) -> list[dict[str, Any]]:
        """Return the objects of a run whose RayJob has a name; with ``schedule`` the objects that create RayJobs.

        Raises:
            InputError: pods would not see a path of the run's config; every path is named.
        """
        self._check(submission)
        config = self._config_map(submission)
        spec = self._job_spec(submission)
        if self.schedule is None:
            return [config, self._object(API, "RayJob", name, submission, {"spec": spec})]
        timed = {"schedule": self.schedule, "suspend": self.suspend, **optional(timeZone=self.time_zone)}
        if self.cron == "ray":
            return [config, self._object(API, "RayCronJob", submission.name, submission, {"spec": {**timed, "jobTemplate": spec}})]
        job = self._object(API, "RayJob", f"{submission.name}-", submission, {"spec": spec})
        job["metadata"]["generateName"] = job["metadata"].pop("name")
        config["data"]["rayjob.yaml"] = as_yaml([job])
        cron = {**timed, "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": self._creating_job(submission)}}
        return [config, *self._rights(submission), self._object("batch/v1", "CronJob", submission.name, submission, {"spec": cron})]

    def _check(self, submission: Submission) -> None:
        """Refuse what pods could not read or write, and what would not compute on the workers."""
        config = submission.config
        compute = config.compute
        problems = [
            Problem(config.where(key), path, f"a path below a mount ({self._mounts()}), or a URL", "Add it to `volumes` of --options.")
            for key, path in local_paths(config)
            if self._volume_of(path) is None
        ]
        volume = self._volume_of(config.output)
        if config.output.startswith("memory://") or (volume is not None and volume.read_only):
            found = config.output if volume is None else f"{config.output}, on the read-only volume {volume.name}"
            problems.append(
                Problem(config.where("output"), found, "a folder of a volume that pods may write, or a URL such as s3://BUCKET/RUN")
            )
        if compute.address is not None:
            problems.append(Problem(config.where("compute.address"), repr(compute.address), "null: the run gets a Ray cluster of its own"))
        if compute.runner == "serial":
            problems.append(Problem(config.where("compute.runner"), "'serial'", "auto or ray: the head pod computes nothing"))
        if (size := len(submission.yaml.encode())) > MAX_CONFIG_BYTES:
            problems.append(Problem(config.where("images"), f"a config of {size:,} bytes", "at most 1 MiB", "List the images in a CSV."))
        if problems:
            raise InputError(problems)

    def _volume_of(self, path: str) -> Volume | None:
        """Return the volume that a path lies on: the one with the longest mount."""
        return max((one for one in self.volumes if one.covers(path)), key=lambda one: len(one.mount), default=None)

    def _mounts(self) -> str:
        return ", ".join(volume.mount for volume in self.volumes) or "there is none"

    def _object(self, api: str, kind: str, name: str, submission: Submission, content: Mapping[str, Any]) -> dict[str, Any]:
        metadata = {"name": name, **optional(namespace=self.namespace), "labels": labels_of(submission)}
        return {"apiVersion": api, "kind": kind, "metadata": metadata, **content}

    def _config_map(self, submission: Submission) -> dict[str, Any]:
        return self._object("v1", "ConfigMap", submission.name, submission, {"data": {"config.yaml": submission.yaml}})

    def _job_spec(self, submission: Submission) -> dict[str, Any]:
        """Return the spec of a RayJob; its driver runs on the head pod."""
        return {
            "entrypoint": f"gigaseg run {CONFIG_FOLDER}/config.yaml",
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": self.ttl,
            "backoffLimit": self.backoff,
            **optional(activeDeadlineSeconds=self.active_deadline, suspend=self.suspend or None),
            "rayClusterSpec": self._cluster_spec(submission),
            # The submitter only waits and prints: it gets neither volumes nor secrets.
            "submitterPodTemplate": self._pod(submission, self._container("ray-job-submitter", SUBMITTER), restartPolicy="Never"),
        }

    def _cluster_spec(self, submission: Submission) -> dict[str, Any]:
        gpus = {"nvidia.com/gpu": str(self.gpus_per_node)} if self.gpus_per_node else {}
        mounts = [{"name": one.name, "mountPath": one.mount, "readOnly": one.read_only} for one in self.volumes]
        secrets = [{"secretRef": {"name": name}} for name in self.secrets]
        config = {"name": "gigaseg-config", "configMap": {"name": submission.name}}
        config_mount = {"name": config["name"], "mountPath": CONFIG_FOLDER, "readOnly": True}
        head = self._container("ray-head", HEAD, volumeMounts=[*mounts, config_mount], envFrom=secrets)
        size = {"cpu": str(self.cpus), "memory": self.memory, **gpus}
        worker = self._container("ray-worker", size, volumeMounts=mounts, envFrom=secrets)
        sources = [one.source for one in self.volumes]
        worker_pod = self._pod(submission, worker, volumes=sources, nodeSelector=self.node_selector)
        count = {"replicas": self.nodes, "minReplicas": self.nodes, "maxReplicas": self.nodes}
        return {
            "rayVersion": self.ray_version,
            **optional(authOptions=self.auth and {"mode": self.auth}, tlsOptions={"enabled": True} if self.tls else None),
            # Without CPUs of Ray's, the head pod gets no actor.
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0"},
                "template": self._pod(submission, head, volumes=[*sources, config]),
            },
            "workerGroupSpecs": [{"groupName": "workers", **count, "rayStartParams": {}, "template": worker_pod}],
        }

    def _container(self, name: str, size: Mapping[str, str], **more: Any) -> dict[str, Any]:
        resources = {"requests": dict(size), "limits": dict(size)}
        return {"name": name, "image": self.image, "resources": resources, "securityContext": RESTRICTED, **optional(**more)}

    def _pod(self, submission: Submission, container: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Return a pod template that the strictest of Kubernetes' security standards admits, host paths apart."""
        ownership = {} if self.group is None else {"fsGroup": self.group, "fsGroupChangePolicy": "OnRootMismatch"}
        spec = {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **ownership},
            "containers": [dict(container)],
            **optional(serviceAccountName=self.service_account, **more),
            **optional(tolerations=[one.model_dump(exclude_none=True) for one in self.tolerations]),
            **optional(imagePullSecrets=[{"name": name} for name in self.pull_secrets]),
        }
        return {"metadata": {"labels": labels_of(submission)}, "spec": spec}

    def _creating_job(self, submission: Submission) -> dict[str, Any]:
        """Return a Job that creates a RayJob and waits for its end, so that `Forbid` keeps runs from overlapping."""
        config = {"name": "gigaseg-config", "configMap": {"name": submission.name}}
        mount = {"volumeMounts": [{"name": config["name"], "mountPath": CONFIG_FOLDER, "readOnly": True}]}
        common = {"image": self.kubectl_image, "securityContext": RESTRICTED, "command": ["kubectl"]}
        waiting = ["wait", "rayjobs", "-l", f"{LABEL}={submission.name}", "--for=jsonpath={.status.endTime}", "--timeout=-1s"]
        spec = {
            "serviceAccountName": f"{submission.name}-schedule",
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "runAsUser": KUBECTL_USER, "seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [{"name": "create", "args": ["create", "-f", f"{CONFIG_FOLDER}/rayjob.yaml"], **common, **mount}],
            "containers": [{"name": "wait", "args": waiting, **common}],
            "volumes": [config],
            **optional(tolerations=[one.model_dump(exclude_none=True) for one in self.tolerations]),
            **optional(imagePullSecrets=[{"name": name} for name in self.pull_secrets]),
        }
        return {"backoffLimit": 0, "template": {"metadata": {"labels": labels_of(submission)}, "spec": spec}}

    def _rights(self, submission: Submission) -> Iterator[dict[str, Any]]:
        """Yield what lets the creating Job create RayJobs, and nothing else."""
        name, group = f"{submission.name}-schedule", "rbac.authorization.k8s.io"
        rule = {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list", "watch"]}
        yield self._object("v1", "ServiceAccount", name, submission, {})
        yield self._object(f"{group}/v1", "Role", name, submission, {"rules": [rule]})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}
        role = {"apiGroup": group, "kind": "Role", "name": name}
        yield self._object(f"{group}/v1", "RoleBinding", name, submission, {"subjects": [subject], "roleRef": role})


RESTRICTED: Mapping[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""Security context of every container; pods add that nothing runs as root."""


def as_yaml(objects: list[dict[str, Any]]) -> str:
    """Return objects as one YAML stream, without anchors."""
    return "---\n".join(yaml.dump(one, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=140) for one in objects)


class _Plain(yaml.SafeDumper):
    """Writes equal parts out instead of referring to the first, and texts of several lines as they read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Plain.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)
)


def labels_of(submission: Submission) -> dict[str, str]:
    """Return the labels of every object of a run."""
    return {"app.kubernetes.io/name": "gigaseg", LABEL: submission.name}


def optional(**fields: Any) -> dict[str, Any]:
    """Return the fields that hold something: Kubernetes fills in the others."""
    return {name: value for name, value in fields.items() if value not in (None, [], {})}


def local_paths(config: Config) -> Iterator[tuple[str, str]]:
    """Yield key and path of each file and folder that a run reads or writes, as far as its config names it."""
    content = config.model_dump(mode="json")
    for key in ("images", "truth", "model", "reader", "skip", "instances", "metrics", "writers", "output"):
        yield from _absolute(content[key], key)


def _absolute(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        path = value.removeprefix("file://")
        if path.startswith("/") and not is_url(path):
            yield key, path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from _absolute(part, join_keys(key, name))
