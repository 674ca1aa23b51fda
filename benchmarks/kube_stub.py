"""An API server in a process of its own, for rows 10 and 11.

    kube_stub.py list 1000     that many InferenceServices with Deployments, pods and releases; one,
                               `changing`, is changed once a second and carries the time of that
    kube_stub.py roll 3 20     a controller that makes what is applied ready after 3 to 20 s

It prints one line of JSON (url, bytes of the list) and ends with its stdin.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from services import kubeobject, records  # noqa: E402 - the repository, wherever started
from services.domain import (  # noqa: E402
    Action,
    Intent,
    Mode,
    Outcome,
    Package,
    PackageKind,
    Release,
    VersionRef,
)
from tests import apiserver  # noqa: E402
from tests.apiserver import ApiServer  # noqa: E402

Json = Any
SAMPLE = ROOT / "tests" / "samples" / "kserve" / "versions" / "v0.20.json"
NAMED = "wine"


def fill(api: ApiServer, count: int) -> int:
    """Put `count` services; gives the size of their list in bytes."""
    look = json.loads(SAMPLE.read_text(encoding="utf-8"))["looks"]["standard ready"]
    for number in range(count - 1):
        name = f"svc-{number:04d}"
        for collection, thing in (
            (apiserver.SERVING, look["service"]),
            (apiserver.DEPLOYMENTS, look["deployment"]),
            (apiserver.PODS, look["pods"][0]),
        ):
            made = json.loads(json.dumps(thing).replace(NAMED, name))
            made["metadata"].pop("uid", None)
            for state in _container_states(made):  # what a typed client insists on
                state |= {"image": "mlserver:1", "imageID": "sha256:1"}
                state.setdefault("restartCount", 0)
            made["metadata"]["managedFields"] = _managed(made)
            api.put(collection, made)
        api.put(apiserver.RELEASES, release(name, 2))
    api.put(apiserver.SERVING, changing())
    listed = api.answer("GET", apiserver.SERVING, {}, None)[1]
    return len(json.dumps(listed))


def _container_states(thing: Json) -> list[Json]:
    status = thing.get("status") or {}
    return [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]


def _managed(thing: Json) -> Json:
    """Managed fields as an API server keeps them: one entry a manager, each field by name."""

    def fields(value: Json) -> Json:
        if isinstance(value, dict):
            return {f"f:{key}": fields(below) for key, below in value.items()}
        return {}

    return [
        {"manager": manager, "operation": "Update", "time": "2026-11-23T12:01:00Z",
         "fieldsType": "FieldsV1", "fieldsV1": fields({part: thing.get(part) or {}})}
        for manager, part in (("slipway", "spec"), ("manager", "status"))
    ]  # fmt: skip


def release(name: str, number: int) -> Json:
    """A verified release as the journal writes it."""
    package = Package(PackageKind.GCS, "gs://models/wine/2")
    intent = Intent(name, VersionRef("wine", number), package, Mode.STANDARD)
    made = Release(
        number, name, Action.DEPLOY, intent, "ana", "", datetime.now(UTC), workload=number
    )
    return {
        "metadata": {
            "name": f"slipway.{name}.{number}",
            "labels": {kubeobject.RELEASE_LABEL: name},
            "annotations": {f"{kubeobject.DOMAIN}/outcome": Outcome.VERIFIED.value},
        },
        "revision": number,
        "data": json.loads(records.dump(made)),
    }


def changing() -> Json:
    """A service that others made; its environment says when it was written."""
    env = [{"name": "CHANGED_AT", "value": repr(time.time())}]
    model = {"modelFormat": {"name": "mlflow"}, "storageUri": "gs://m/1", "env": env}
    return {"metadata": {"name": "changing"}, "spec": {"predictor": {"model": model}}}


class Controller:
    """Makes the pods of what is applied: they are ready `low` to `high` seconds later."""

    def __init__(self, api: ApiServer, low_s: float, high_s: float) -> None:
        self.api = api
        self.low_s, self.high_s = low_s, high_s
        self.look = json.loads(SAMPLE.read_text(encoding="utf-8"))["looks"]["standard ready"]

    def __call__(self, path: str, thing: Json) -> None:
        if path == apiserver.SERVING:
            threading.Thread(target=self.roll, args=(thing,), daemon=True).start()

    def roll(self, thing: Json) -> None:
        name = thing["metadata"]["name"]
        time.sleep(random.uniform(self.low_s, self.high_s))
        workload = thing["metadata"]["labels"][kubeobject.WORKLOAD_LABEL]
        pod = self.part("pod", name, workload, self.look["pods"][0])
        query = {"labelSelector": f"{kubeobject.SERVICE_LABEL}={name}"}
        for old in self.api.answer("GET", apiserver.PODS, query, None)[1]["items"]:
            self.api.remove(apiserver.PODS, old["metadata"]["name"])
        deployment = self.part("deployment", name, workload, self.look["deployment"])
        template = deployment["spec"]["template"]["metadata"]
        template["labels"][kubeobject.WORKLOAD_LABEL] = workload
        loaded = thing["spec"]["predictor"]["model"]["storageUri"]
        for carrier in (template, pod["metadata"]):
            for key in carrier["annotations"]:
                if key.endswith("storage-initializer-sourceuri"):
                    carrier["annotations"][key] = loaded
        self.api.put(apiserver.PODS, pod)
        self.api.put(apiserver.DEPLOYMENTS, deployment)
        live = self.api.object(apiserver.SERVING, name)
        assert live is not None
        status = copy.deepcopy(self.look["service"]["status"])
        stamp = datetime.now(UTC).isoformat()
        for condition in status["conditions"]:
            condition["lastTransitionTime"] = stamp
        live["status"] = {**status, "readyAt": time.time()}
        self.api.put(apiserver.SERVING, live)

    def part(self, kind: str, name: str, workload: str, like: Json) -> Json:
        made = json.loads(json.dumps(like).replace(NAMED, name))
        made["metadata"]["labels"][kubeobject.WORKLOAD_LABEL] = workload
        if kind == "pod":
            made["metadata"]["name"] = f"{name}-{workload}"
        return made


def infer(_method: str, path: str, _body: bytes) -> tuple[int, bytes]:
    """What an MLServer answers that has the model."""
    if not path.endswith("/infer"):
        return 200, b"{}"
    output = {"name": "predict", "datatype": "INT64", "shape": [1, 1], "data": [1]}
    return 200, json.dumps({"model_name": "m", "outputs": [output]}).encode()


def main() -> None:
    api = ApiServer(bookmark_s=5.0)
    api.proxy = infer
    api.documents["/version"] = {"gitVersion": "v1.34.4"}
    size = 0
    if sys.argv[1] == "list":
        size = fill(api, int(sys.argv[2]))
        threading.Thread(target=change, args=(api,), daemon=True).start()
    else:
        api.on_apply = Controller(api, float(sys.argv[2]), float(sys.argv[3]))
    print(json.dumps({"url": api.url, "list_bytes": size}), flush=True)
    for line in sys.stdin:  # anything asked: what was asked of us so far
        if line.strip():
            counted = [[how, path, query] for how, path, query in list(api.asked)]
            print(json.dumps(counted), flush=True)
    api.close()


def change(api: ApiServer) -> None:
    while True:
        time.sleep(1)
        api.put(apiserver.SERVING, changing())


if __name__ == "__main__":
    main()
