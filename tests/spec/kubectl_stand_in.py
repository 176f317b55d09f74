"""Stands in for kubectl, as no API server runs here: keeps objects in KUBE_FOLDER and answers as kubectl does.

``calls`` there lists what was asked. ``refusal`` holds what every call fails with. ``status.json`` is the status of every RayJob,
``log`` what its submitter printed, ``heads`` its head pods.
"""

import json
import os
import sys
from pathlib import Path

import yaml


def read(folder, name, default=""):
    path = folder / name
    return path.read_text() if path.exists() else default


def fail(message):
    sys.stderr.write(f"{message}\n")
    sys.exit(1)


def answer(folder, arguments):
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    if refusal := read(folder, "refusal"):
        fail(refusal)
    kept = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.rayjob"))}
    status = json.loads(read(folder, "status.json", "{}"))
    for name, job in kept.items():
        job["status"] = status.get(name, {})
    match arguments:
        case ["apply", "-f", "-"]:
            for thing in yaml.safe_load_all(sys.stdin):
                suffix = "rayjob" if thing["kind"] == "RayJob" else thing["kind"].lower()
                (folder / f"{thing['metadata']['name']}.{suffix}").write_text(json.dumps(thing))
        case ["get", "rayjobs", "-o", "json"]:
            print(json.dumps({"items": list(kept.values())}))
        case ["get", "rayjob", name, "-o", "json"]:
            print(json.dumps(kept[name])) if name in kept else fail(f'Error from server (NotFound): rayjobs.ray.io "{name}" not found')
        case ["get", "pods", *_]:
            print(read(folder, "heads"), end="")
        case ["logs", _]:
            print(read(folder, "log"), end="") if read(folder, "log") else fail(
                "Error from server (BadRequest): container is waiting to start"
            )
        case ["exec", *_] if read(folder, "exec_fails"):
            fail("gigaseg: /data/out: found no run")
        case ["delete", "rayjob", name, *_]:
            (folder / f"{name}.rayjob").unlink()
        case ["exec" | "patch", *_]:
            pass
        case _:
            fail(f"unexpected: {arguments}")


if __name__ == "__main__":
    given = [one for one in sys.argv[1:] if not one.startswith(("--request-timeout", "--namespace", "--context"))]
    answer(Path(os.environ["KUBE_FOLDER"]), given)
