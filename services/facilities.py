"""What a cluster offers for serving: KServe, Knative, runtimes, rights, credentials, room.

Gathers the facts behind Health, `slipway doctor` and the preflight of a plan; each finding names
the command that mends it. Reads only. Callers: kserve.py.

Read against KServe v0.20.0 (namespace kserve, its own install manifests) and Knative v1.20.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from types import MappingProxyType

import orjson
import urllib3

from services import checks, gcloud, kubeobject, servingruntime
from services import inferenceservice as objects
from services.cluster import APPLY_PATCH, Cluster, path_part, quantity, right_fix
from services.domain import Finding, Intent, Json, Mode, PackageKind, Resources, Verdict
from services.errors import Denied, SlipwayError, one_line
from services.groundwork import INSTALL_KSERVE

KEPT_S = 20.0
"""Runtimes and configuration change seldom; a plan and its rehearsal read them once."""

_KSERVE = "kserve"
_SERVING = "/apis/serving.kserve.io/v1alpha1"


@dataclass(frozen=True, slots=True)
class Right:
    """Something that Slipway asks of the API server, as RBAC names it."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    what_for: str
    subresource: str = ""

    @property
    def name(self) -> str:
        """As a Role writes it: pods/log."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    @property
    def words(self) -> str:
        """For people: the group too, where the core has a resource of the same name."""
        return self.name if self.group != "serving.knative.dev" else f"{self.name} of {self.group}"

    def is_in(self, rules: Sequence[Json], verb: str) -> bool:
        """Whether one of RBAC's rules grants a verb of it, for every object."""
        wanted = {"*", self.name, *([f"*/{self.subresource}"] if self.subresource else ())}
        return any(
            not rule.get("resourceNames")
            and not {"*", verb}.isdisjoint(rule.get("verbs") or ())
            and not {"*", self.group}.isdisjoint(rule.get("apiGroups") or ())
            and not wanted.isdisjoint(rule.get("resources") or ())
            for rule in rules
        )


RIGHTS = (
    Right("serving.kserve.io", "inferenceservices", ("get", "list"), "see services"),
    Right("serving.kserve.io", "inferenceservices", ("create", "patch"), "deploy and roll back"),
    Right("serving.kserve.io", "servingruntimes", ("list",), "choose a runtime"),
    Right("apps", "controllerrevisions", ("get", "list"), "read the history"),
    Right("apps", "controllerrevisions", ("create", "patch"), "record releases"),
    Right("coordination.k8s.io", "leases", ("get", "create", "update", "patch"), "lock a service"),
    Right("apps", "deployments", ("get", "list"), "watch roll-outs in Standard mode"),
    Right("serving.knative.dev", "services", ("get", "list"), "watch roll-outs in Knative mode"),
    Right("serving.knative.dev", "revisions", ("list",), "watch roll-outs in Knative mode"),
    Right("", "pods", ("list",), "watch roll-outs"),
    Right("", "pods", ("get",), "read logs", "log"),
    Right("", "pods", ("get", "create"), "test a release on exactly its pods", "proxy"),
    Right("", "services", ("get", "create"), "reach services without an ingress", "proxy"),
    Right("", "events", ("list",), "explain failures"),
    Right("", "serviceaccounts", ("get",), "check the pods' credentials"),
    Right("", "resourcequotas", ("list",), "check the quota"),
    Right("networking.k8s.io", "ingresses", ("get",), "find the way in"),
)
"""The verbs that deploy/rbac.yaml grants; each is used, and each missing one has its own words."""

WATCHING = tuple(
    Right(group, resource, ("watch",), "be told of changes instead of asking again and again")
    for group, resource in (
        ("serving.kserve.io", "inferenceservices"),
        ("apps", "controllerrevisions"),
        ("apps", "deployments"),
        ("serving.knative.dev", "services"),
        ("serving.knative.dev", "revisions"),
        ("", "pods"),
    )
)
"""For the dashboard, which does without them, at a price."""

OFFERING = Right(
    "serving.kserve.io", "servingruntimes", ("create", "patch"), "offer environments of their own"
)
"""Only in the shipped Role's optional part: for `--environment own`."""

_SECRET_ANNOTATION = "serving.kserve.io/storageSecretName"
_KEY_FILE = "gcloud-application-credentials.json"
"""As KServe has them unless its configuration says otherwise."""

_NODE_IMAGES = 50
"""The kubelet's nodeStatusMaxImages, as it is set by default."""
_MOST_PODS = 5000
"""Pods that are read to say what the nodes have left: some tens of MB of the API server's time."""

_RELEASES = Right(
    "apps", "controllerrevisions", ("get", "list", "create", "patch"), "record releases"
)
_LOCK = Right(
    "coordination.k8s.io", "leases", ("get", "create", "update", "patch"), "lock a service"
)
_SEEN_IN = {
    Mode.STANDARD: (Right("apps", "deployments", ("get",), "watch the roll-out"),),
    Mode.KNATIVE: (
        Right("serving.knative.dev", "services", ("get",), "watch the roll-out"),
        Right("serving.knative.dev", "revisions", ("list",), "watch the roll-out"),
    ),
}


def rights_to(verb: str, mode: Mode | None) -> tuple[Right, ...]:
    """What an operation needs from its write (`verb`; "" for none) until it is recorded.

    The rest of `RIGHTS` explains, checks and tests: what needs those does without, and says so.
    """
    service = Right("serving.kserve.io", "inferenceservices", ("get",), "see the service")
    write = Right("serving.kserve.io", "inferenceservices", (verb,), "make the one write")
    seen = (
        Right("", "pods", ("list",), "watch the roll-out"),
        *_SEEN_IN.get(mode or Mode.STANDARD, ()),
    )
    return (*((write,) if verb else ()), service, _RELEASES, _LOCK, *(seen if mode else ()))


DELETING = Right("serving.kserve.io", "inferenceservices", ("delete",), "delete services")
"""Only in the shipped Role's optional part."""


def _amount(key: str, amount: Decimal) -> str:
    """An amount of what a quota counts, as Kubernetes writes it."""
    if key.endswith("cpu"):
        return f"{int(amount * 1000)}m"
    return f"{int(amount / 2**20)}Mi" if key.endswith("memory") else f"{amount:f}"


def _commands(lines: Sequence[str]) -> str:
    """A fix of several commands: words on the first line, a command on each other one."""
    return "\n".join(("Run these (what exists already says so, and stays as it is):", *lines))


class Facilities:
    """Facts about one namespace of one cluster. Every method may raise Unreachable and Denied."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        *,
        service_account: str | None = None,
        cloud: gcloud.CloudPlace | None = None,
    ) -> None:
        """`service_account`: of the target's pods. `cloud`: its place in Google Cloud, on GKE."""
        self._cluster = cluster
        self._namespace = namespace
        self._service_account = service_account
        self._cloud = cloud
        self._kept: dict[str, tuple[Json, float]] = {}
        self._unlisted: dict[str, Denied] = {}
        """Where runtimes may not be listed: path → why."""

    def _read(self, key: str, read: Callable[[], Json]) -> Json:
        value, since = self._kept.get(key, (None, 0.0))
        if key not in self._kept or time.monotonic() - since > KEPT_S:
            value = read()
            self._kept[key] = (value, time.monotonic())
        return value

    # ── Facts ─────────────────────────────────────────────────────────────────────────────────

    def runtimes(self) -> tuple[checks.Runtime, ...]:
        """The runtimes that a service of this namespace may use; the namespace's own win."""
        found: dict[str, checks.Runtime] = {}
        for path in (
            f"{_SERVING}/clusterservingruntimes",
            f"{_SERVING}/namespaces/{path_part(self._namespace)}/servingruntimes",
        ):
            for item in self._read(path, partial(self._listed, path)):
                runtime = servingruntime.runtime_of(item)
                found[runtime.name] = runtime
        reported = self._read("reported", self._reported)
        return tuple(
            replace(runtime, reported={"mlflow": reported[runtime.image]})
            if runtime.image in reported
            else runtime
            for runtime in found.values()
        )

    def offer_environment(self, environment: str) -> None:
        """Make an environment's image a runtime of the namespace: one server-side apply. Denied."""
        path = f"{_SERVING}/namespaces/{path_part(self._namespace)}/servingruntimes"
        name = servingruntime.environment_runtime(environment)
        self._cluster.send(
            "PATCH",
            f"{path}/{path_part(name)}",
            doing=f"offer the runtime {name}",
            query={"fieldManager": kubeobject.FIELD_MANAGER, "fieldValidation": "Strict"},
            body=servingruntime.environment_manifest(environment, self._namespace),
            content_type=APPLY_PATCH,
        )
        self._kept.pop(path, None)

    def offers_environment(self, environment: str) -> bool:
        """Whether that runtime is there."""
        name = servingruntime.environment_runtime(environment)
        return any(runtime.name == name for runtime in self.runtimes())

    def node_images(self) -> frozenset[str] | None:
        """Names of the images that every node has; None when nodes may not be listed.

        Also None when a node's list may be cut: the kubelet tells its 50 largest images.
        """
        try:
            nodes = self._cluster.items("/api/v1/nodes", doing="look at the nodes' images")
        except Denied:
            return None
        lists = [(node.get("status") or {}).get("images") or () for node in nodes]
        if not lists or any(len(images) >= _NODE_IMAGES for images in lists):
            return None
        names = [{str(n) for image in images for n in image.get("names") or ()} for images in lists]
        return frozenset(set.intersection(*names))

    def _reported(self) -> dict[str, str]:
        """Image → the MLflow version that a running server of it reports: certain, unlike a tag."""
        found: dict[str, str] = {}
        asked: set[str] = set()
        base = f"/api/v1/namespaces/{path_part(self._namespace)}/pods"
        try:
            pods = self._cluster.items(
                base, doing="look for running servers", selector=kubeobject.SERVICE_LABEL
            )
        except Denied:
            return found
        for pod in pods:
            containers = (pod.get("spec") or {}).get("containers") or ()
            image = next((c["image"] for c in containers if c["name"] == kubeobject.CONTAINER), "")
            if not image or image in asked or not kubeobject.pod_ready(pod):
                continue
            asked.add(image)
            # MLServer's MLflow runtime answers with MLflow's own version (mlserver-mlflow 1.7.1).
            name = path_part(pod["metadata"]["name"])
            path = f"{base}/{name}:{kubeobject.HTTP_PORT}/proxy/version"
            try:
                response = self._cluster.raw(
                    "GET", path, doing="ask a running server", read_timeout_s=3
                )
                text = response.read(64).decode("utf-8", "replace").strip().strip('"')
                response.release_conn()
            except (SlipwayError, urllib3.exceptions.HTTPError, OSError):
                continue
            if response.status == 200 and re.fullmatch(r"[0-9]+(\.[0-9a-z]+)+", text):
                found[image] = text
        return found

    def _listed(self, path: str) -> list[Json]:
        try:
            found = self._cluster.items(path, doing="list serving runtimes")
        except Denied as error:
            # Listing cluster runtimes needs a cluster role; without it nothing is known of them.
            self._unlisted[path] = error
            return []
        self._unlisted.pop(path, None)
        return found

    def configuration(self) -> Mapping[str, Json]:
        """KServe's ConfigMap, each key parsed; empty when it cannot be read."""

        def read() -> Json:
            try:
                found = self._cluster.get(
                    f"/api/v1/namespaces/{_KSERVE}/configmaps/inferenceservice-config",
                    doing="read KServe's configuration",
                )
            except Denied:
                return {}
            parsed = {}
            for key, text in ((found or {}).get("data") or {}).items():
                try:
                    parsed[key] = orjson.loads(text)
                except orjson.JSONDecodeError:
                    continue  # _example and the like
            return parsed

        value: Mapping[str, Json] = self._read("configuration", read)
        return value

    def default_mode(self) -> Mode:
        """The deployment mode that the cluster gives to services that name none."""
        told = (self.configuration().get("deploy") or {}).get("defaultDeploymentMode", "")
        return kubeobject.parsed_mode(str(told)) or Mode.STANDARD

    def has_knative(self) -> bool:
        """Whether Knative Serving's kinds exist."""
        found = self._read(
            "knative",
            lambda: self._cluster.get("/apis/serving.knative.dev/v1", doing="look for Knative"),
        )
        return found is not None

    def kserve_version(self) -> str:
        """From the controller's image tag, for example v0.20.0; "" when it may not be seen."""
        controller = self._controller()
        containers = ((controller or {}).get("spec") or {}).get("template", {}).get("spec", {})
        for container in containers.get("containers") or ():
            image = str(container.get("image", ""))
            if "kserve-controller" in image:
                return one_line(image.rpartition(":")[2], 40)
        return ""

    def names_old_modes(self) -> bool:
        """Whether this KServe knows the modes only as RawDeployment and Serverless (≤ v0.15).

        By the controller's version; where that may not be seen, by the API's own description.
        """
        parts = self.kserve_version().removeprefix("v").split(".")
        try:
            return (int(parts[0]), int(parts[1])) < (0, 16)
        except (ValueError, IndexError):
            fields = self._status_fields()
            return bool(fields) and "servingRuntimeName" not in fields

    def _status_fields(self) -> tuple[str, ...]:
        """What the status of an InferenceService may hold here; () when that is not told.

        KServe v0.16.0 added servingRuntimeName to the status and the modes' new names together.
        """

        def read() -> Json:
            # Large, but any identity may read it (ClusterRole system:discovery), and it is kept.
            try:
                found = self._cluster.get(
                    "/openapi/v3/apis/serving.kserve.io/v1beta1", doing="read the API's description"
                )
            except Denied:
                return ()
            schemas = ((found or {}).get("components") or {}).get("schemas") or {}
            for name, schema in schemas.items():
                if name.endswith(".InferenceService"):
                    status = (schema.get("properties") or {}).get("status") or {}
                    return tuple(status.get("properties") or ())
            return ()

        value: tuple[str, ...] = self._read("status fields", read)
        return value

    def _controller(self) -> Json:
        def read() -> Json:
            try:
                return self._cluster.get(
                    f"/apis/apps/v1/namespaces/{_KSERVE}/deployments/kserve-controller-manager",
                    doing="look at KServe's controller",
                )
            except Denied:
                return None

        return self._read("controller", read)

    def missing_rights(self, rights: Sequence[Right] = RIGHTS) -> list[tuple[Right, list[str]]]:
        """Each right of which this identity lacks verbs, by the cluster's own access review.

        What the rules that the cluster tells do not grant is asked one by one.
        """
        told = self._cluster.rules(self._namespace)
        missing = []
        for right in rights:
            lacking = [
                verb
                for verb in right.verbs
                if not right.is_in(told, verb)
                and not self._cluster.may(
                    verb, right.group, right.resource, self._namespace, right.subresource
                )
            ]
            if lacking:
                missing.append((right, lacking))
        return missing

    # ── Preflight of a plan ───────────────────────────────────────────────────────────────────

    def plan_findings(
        self, intent: Intent, *, creates: bool, made: Json, starts: bool
    ) -> Iterator[Finding]:
        """What has to hold before this intent is written. Writes nothing.

        `made`: the InferenceService as it will be, patch and all. `starts`: pods will be.
        """
        yield from self.right_findings(rights_to("create" if creates else "patch", intent.mode))
        if creates:
            yield checks.name_finding(intent.service, self._namespace, intent.mode)
        if intent.mode is Mode.KNATIVE and not self.has_knative():
            yield Finding(
                "mode",
                Verdict.FAIL,
                "Knative is not installed in this cluster.",
                "Deploy with --mode Standard, or install Knative Serving.",
            )
        runtimes = self.runtimes()
        if runtimes:
            yield checks.runtime_finding(intent, runtimes)
            yield checks.library_finding(intent, runtimes)
            yield from checks.passed_over(intent, runtimes)
        else:
            yield Finding("runtime", Verdict.SKIP, "The cluster's runtimes are not known.")
        for error in self._unlisted.values():
            yield Finding("runtimes", Verdict.SKIP, error.why, error.fix)
        if intent.package.environment and not self.offers_environment(intent.package.environment):
            yield from self.right_findings((OFFERING,))
        yield from checks.field_findings(intent)
        if intent.package.kind is PackageKind.GCS:
            yield self._credentials(
                objects.service_account(made) or intent.service_account,
                self._annotated_secret(made),
            )
        yield from self._quota(self._asked_for(intent, runtimes, creates=creates) if starts else {})
        yield from self._room_for(intent, runtimes)

    def _room_for(self, intent: Intent, runtimes: Sequence[checks.Runtime]) -> Iterator[Finding]:
        chosen = next((known for known in runtimes if known.name == intent.runtime), None)
        own = chosen.requests if chosen else Resources()
        cpu, memory = intent.resources.cpu or own.cpu, intent.resources.memory or own.memory
        rooms = self.rooms()
        if rooms and cpu and memory:
            yield checks.room_finding(quantity(cpu), quantity(memory), rooms)

    def rooms(self) -> tuple[checks.Room, ...]:
        """What each node that takes pods has left; () when the nodes may not be looked at.

        Where pods may not be listed, or are too many to be read for a hint, what it has in all.
        """
        nodes_of = partial(self._cluster.items, "/api/v1/nodes", doing="look at the nodes")
        try:
            nodes = self._read("nodes", nodes_of)
        except Denied:
            return ()
        try:
            pods = self._read("pods", self._pods_with_a_promise)
        except Denied:
            pods = None
        promised: dict[str, list[Decimal]] = {}
        for pod in pods or ():
            node = str((pod.get("spec") or {}).get("nodeName", ""))
            if not node:
                continue
            cpu, memory = promised.setdefault(node, [Decimal(0), Decimal(0)])
            asked = [
                (container.get("resources") or {}).get("requests") or {}
                for container in pod["spec"].get("containers") or ()
            ]
            promised[node] = [
                cpu + sum(quantity(part.get("cpu", 0)) for part in asked),
                memory + sum(quantity(part.get("memory", 0)) for part in asked),
            ]
        rooms = []
        for node in nodes:
            if (node.get("spec") or {}).get("unschedulable"):
                continue
            name = str(node["metadata"]["name"])
            room = (node.get("status") or {}).get("allocatable") or {}
            cpu, memory = promised.get(name, [Decimal(0), Decimal(0)])
            rooms.append(
                checks.Room(
                    name,
                    max(quantity(room.get("cpu", 0)) - cpu, Decimal(0)),
                    max(quantity(room.get("memory", 0)) - memory, Decimal(0)),
                    counted=pods is not None,
                )
            )
        return tuple(rooms)

    def _pods_with_a_promise(self) -> list[Json] | None:
        """The cluster's pods that hold CPU and memory; None when there are too many to read."""
        path, doing = "/api/v1/pods", "look at what the nodes have left"
        if self._cluster.count(path, doing=doing) > _MOST_PODS:
            return None
        return self._cluster.items(
            path, doing=doing, fields="status.phase!=Succeeded,status.phase!=Failed"
        )

    @property
    def _credentials_configured(self) -> Json:
        """What KServe's configuration says of credentials; empty where it may not be read."""
        found = self.configuration().get("credentials")
        return found if isinstance(found, dict) else {}

    def _annotated_secret(self, made: Json) -> str:
        """The Secret that the service itself names; "" when it names none."""
        told = self._credentials_configured.get("storageSecretNameAnnotation")
        annotations = (made.get("metadata") or {}).get("annotations") or {}
        return str(annotations.get(told or _SECRET_ANNOTATION) or "")

    def _secrets(self, names: Sequence[str], way: str) -> Finding:
        """Whether the Secrets that KServe would mount exist, and one holds a key file."""
        check = checks.CREDENTIALS
        told = (self._credentials_configured.get("gcs") or {}).get("gcsCredentialFileName")
        key = one_line(told or _KEY_FILE)
        said = f"{way}: {one_line(', '.join(names))}."
        holds = False
        for name in names:
            path = f"/api/v1/namespaces/{path_part(self._namespace)}/secrets/{path_part(name)}"
            try:
                found = self._cluster.get(path, doing="look at the pods' Secret")
            except Denied:
                # The shipped Role leaves Secrets out on purpose.
                return Finding(
                    check,
                    Verdict.SKIP,
                    f"{said} Whether it is there, with the key {key}, was not checked: this"
                    " account may not get Secrets.",
                    shlex.join(("kubectl", "describe", "secret", name, "-n", self._namespace)),
                )
            if found is None:
                make = ("kubectl", "create", "secret", "generic", name, "-n", self._namespace)
                return Finding(
                    check,
                    Verdict.FAIL,
                    f"{said} There is no Secret {one_line(name)} in {self._namespace}: KServe"
                    " refuses the pods.",
                    f"{shlex.join(make)} --from-file={key}=KEYFILE",
                )
            holds = holds or key in (found.get("data") or {})
        if holds:
            return Finding(check, Verdict.PASS, f"{said} It holds the key {key}.")
        return Finding(
            check,
            Verdict.WARN,
            f"{said} None has the key {key}: the pods read the bucket as if there were no Secret.",
            f"Put the service account's key file into it as {key}.",
        )

    def _credentials(self, service_account: str | None, secret: str = "") -> Finding:
        """Which way the pods get at the bucket, and whether it exists.

        `secret`: the one that the service's own annotation names; it goes before the account's.
        """
        name, check = service_account or "default", checks.CREDENTIALS
        try:
            account = self._cluster.get(
                f"/api/v1/namespaces/{path_part(self._namespace)}/serviceaccounts/{path_part(name)}",
                doing="look at the ServiceAccount",
            )
        except Denied as error:
            return Finding(check, Verdict.SKIP, error.why, error.fix)
        if account is None and name == "default":
            return Finding(
                check,
                Verdict.SKIP,
                f"{self._namespace} has no ServiceAccount default yet: Kubernetes makes it itself,"
                " soon after the namespace.",
            )
        if account is None:
            make = ("kubectl", "create", "serviceaccount", name, "-n", self._namespace)
            return Finding(
                check,
                Verdict.FAIL,
                f"There is no ServiceAccount {one_line(name)} in {self._namespace}.",
                shlex.join(make),
            )
        if secret:
            return self._secrets((secret,), "The Secret of the service's own annotation")
        google = str((account["metadata"].get("annotations") or {}).get(gcloud.ANNOTATION, ""))
        if google:
            return self._workload_identity(check, gcloud.PodAccount(self._namespace, name, google))
        secrets = [str(entry.get("name", "")) for entry in account.get("secrets") or ()]
        if secrets:
            return self._secrets(secrets, f"The Secrets of ServiceAccount {one_line(name)}")
        if self._cloud is not None:
            return self._unannotated(check, gcloud.PodAccount(self._namespace, name))
        return Finding(
            check,
            Verdict.PASS if service_account is None else Verdict.WARN,
            f"ServiceAccount {one_line(name)} has neither a Secret nor Workload Identity: the pods"
            " read the bucket anonymously, by the node's account, or from an emulator.",
            "" if service_account is None else "See docs/kserve-targets.md for the three ways.",
        )

    def _workload_identity(self, check: str, pods: gcloud.PodAccount) -> Finding:
        """An annotated ServiceAccount: whether its annotation can have an effect."""
        said = f"ServiceAccount {one_line(pods.name)} is annotated to act as"
        if not gcloud.is_account(pods.acts_as):
            return Finding(
                check,
                Verdict.FAIL,
                f"{said} {one_line(pods.acts_as)}, which is no Google service account.",
                _commands(gcloud.pod_lines(self._cloud, replace(pods, acts_as="")))
                if self._cloud
                else f"Correct its annotation {gcloud.ANNOTATION}.",
            )
        if self._cloud is not None and self._cluster.access.workload_pool == "":
            return Finding(
                check,
                Verdict.FAIL,
                f"{said} {pods.acts_as}, but Workload Identity is off in this cluster.",
                _commands(gcloud.pool_lines(self._cloud)),
            )
        return Finding(
            check,
            Verdict.PASS,
            f"The pods act as {pods.acts_as} (Workload Identity, by ServiceAccount"
            f" {one_line(pods.name)}).",
        )

    def _unannotated(self, check: str, pods: gcloud.PodAccount) -> Finding:
        """On GKE, a ServiceAccount that says nothing: what the pods are then."""
        assert self._cloud is not None
        pool = self._cluster.access.workload_pool
        name = one_line(pods.name)
        if pool:
            principal = f"{pool}[{pods.namespace}/{name}]"
            detail = (
                f"ServiceAccount {name} has neither a Secret nor the annotation"
                f" {gcloud.ANNOTATION}: the pods are {principal} to the bucket, which has to let"
                " that very principal in."
            )
            return Finding(
                check, Verdict.WARN, detail, _commands(gcloud.pod_lines(self._cloud, pods))
            )
        lines = (*gcloud.pool_lines(self._cloud), *gcloud.pod_lines(self._cloud, pods))
        return Finding(
            check,
            Verdict.WARN,
            f"ServiceAccount {name} has no Secret, and Workload Identity is off: the pods read the"
            " bucket by the node's account.",
            _commands(lines),
        )

    def _cloud_findings(self) -> Iterator[Finding]:
        """What only Google knows, as the lines that make it so."""
        if self._cloud is None or not self._cloud.bucket:
            return
        name = self._service_account or "default"
        path = f"/api/v1/namespaces/{path_part(self._namespace)}/serviceaccounts/{path_part(name)}"
        try:
            account = self._cluster.get(path, doing="look at the ServiceAccount")
        except Denied:
            account = None
        annotations = ((account or {}).get("metadata") or {}).get("annotations") or {}
        google = str(annotations.get(gcloud.ANNOTATION, ""))
        acts_as = google if gcloud.is_account(google) else ""
        pods = gcloud.PodAccount(self._namespace, name, acts_as)
        lines = (
            *(gcloud.pool_lines(self._cloud) if self._cluster.access.workload_pool == "" else ()),
            *gcloud.pod_lines(self._cloud, pods),
            *gcloud.bucket_lines(self._cloud, pods, self._cluster.identity()),
        )
        yield Finding(
            "Google Cloud",
            Verdict.SKIP,
            f"Who may use {one_line(self._cloud.bucket)}, and who may act as"
            f" {gcloud.google_account(self._cloud, pods)}, cannot be seen from here.",
            _commands(lines),
        )

    def right_findings(
        self, rights: Sequence[Right], verdict: Verdict = Verdict.FAIL
    ) -> Iterator[Finding]:
        """A finding for each of these rights that is missing."""
        for right, verbs in self.missing_rights(rights):
            yield Finding(
                checks.PERMISSION,
                verdict,
                f"You may not {' or '.join(verbs)} {right.words} in {self._namespace}:"
                f" needed to {right.what_for}.",
                right_fix(verbs[0], right.name),
            )

    def _asked_for(
        self, intent: Intent, runtimes: Sequence[checks.Runtime], *, creates: bool
    ) -> dict[str, Decimal]:
        """What a quota counts of the pods that this intent starts: key → amount.

        In Standard mode an update starts a quarter of the pods beside the old ones (Kubernetes' own
        maxSurge), in Knative mode all of them. Sidecars are not counted.
        """
        if intent.stopped:
            return {}
        chosen = next((known for known in runtimes if known.name == intent.runtime), None)
        own = chosen.requests if chosen else Resources()
        count = intent.scale.min_replicas or 1
        if not creates and intent.mode is Mode.STANDARD:
            count = -(-count // 4)
        cpu = quantity(intent.resources.cpu or own.cpu or 0) * count
        memory = quantity(intent.resources.memory or own.memory or 0) * count
        asked = {"pods": Decimal(count), "count/pods": Decimal(count)}
        asked |= dict.fromkeys(("cpu", "requests.cpu", "limits.cpu"), cpu)
        asked |= dict.fromkeys(("memory", "requests.memory", "limits.memory"), memory)
        return asked

    def _quota(self, asked: Mapping[str, Decimal] = MappingProxyType({})) -> Iterator[Finding]:
        """Each quota of the namespace; `asked`: what a plan would add, as `_asked_for` says."""
        try:
            quotas = self._cluster.items(
                f"/api/v1/namespaces/{path_part(self._namespace)}/resourcequotas",
                doing="look at the quota",
            )
        except Denied as error:
            yield Finding("quota", Verdict.SKIP, error.why, error.fix)
            return
        for quota in quotas:
            status = quota.get("status") or {}
            hard, used = status.get("hard") or {}, status.get("used") or {}
            spoken, short = [], False
            for key in sorted(hard):
                has, limit = quantity(used.get(key, 0)), quantity(hard[key])
                more = asked.get(key, Decimal(0))
                over = has >= limit or has + more > limit
                short = short or over
                wants = f" (the new pods ask {_amount(key, more)})" if over and more else ""
                spoken.append(f"{key} {used.get(key, 0)} of {hard[key]}{wants}")
            yield Finding(
                "quota",
                Verdict.WARN if short else Verdict.PASS,
                one_line(f"{quota['metadata']['name']}: {', '.join(spoken)}.", 512),
                "Ask for less, stop another service, or have the quota raised." if short else "",
            )

    # ── Health ────────────────────────────────────────────────────────────────────────────────

    def findings(self, ways_in: Callable[[], Sequence[str]]) -> list[Finding]:
        """Everything that must hold for this target, for Health and `slipway doctor`.

        `ways_in` looks for ingresses and gives the addresses of those that answer (Denied: they may
        not be looked for); it is called when the API server has answered. Never raises: a part that
        cannot be looked at is a finding itself.
        """
        found: list[Finding] = []
        parts: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
            ("API server", self._server_findings),
            ("rights", self._right_findings),
            ("KServe", self._kserve_findings),
            ("modes", self._mode_findings),
            ("runtimes", self._runtime_findings),
            ("ingress", lambda: self._ingress_findings(ways_in)),
            ("storage", lambda: iter((self._credentials(self._service_account),))),
            ("Google Cloud", self._cloud_findings),
            ("quota", self._quota),
            ("room", self._room_findings),
        )
        for name, part in parts:
            try:
                found.extend(part())
            except SlipwayError as error:
                why = f"{error.what} {error.why}".strip()
                found.append(Finding(name, Verdict.FAIL, why, error.fix))
                if name == "API server":
                    break  # nothing else can be asked
        return found

    def _server_findings(self) -> Iterator[Finding]:
        who = self._cluster.identity()
        detail = (
            f"Kubernetes {self._cluster.version()} at {self._cluster.host}"
            f" ({self._cluster.access.words}), as {who}."
        )
        yield Finding("API server", Verdict.PASS, detail)
        if not self._cluster.verified:
            yield Finding(
                "TLS",
                Verdict.WARN,
                "The API server's certificate is not checked (insecure-skip-tls-verify): whoever"
                " stands between can take this account's credentials.",
                "Put the cluster's certificate-authority-data into the kubeconfig instead.",
            )
        path = f"/api/v1/namespaces/{path_part(self._namespace)}"
        try:
            exists = self._cluster.get(path, doing="look at the namespace") is not None
        except Denied:
            yield Finding("namespace", Verdict.SKIP, f"{self._namespace} may not be looked at.")
            return
        yield Finding(
            "namespace",
            Verdict.PASS if exists else Verdict.FAIL,
            f"{self._namespace} {'exists' if exists else 'does not exist'}.",
            "" if exists else f"kubectl create namespace {self._namespace}",
        )

    def _right_findings(self) -> Iterator[Finding]:
        yield from self.right_findings(WATCHING, Verdict.WARN)
        missing = tuple(self.right_findings(RIGHTS))
        yield from missing
        if not missing:
            count = sum(len(right.verbs) for right in RIGHTS)
            yield Finding(checks.PERMISSION, Verdict.PASS, f"All {count} rights that are needed.")

    def _kserve_findings(self) -> Iterator[Finding]:
        kinds = self._cluster.get("/apis/serving.kserve.io/v1beta1", doing="look for KServe")
        if kinds is None:
            yield Finding(
                "KServe",
                Verdict.FAIL,
                "KServe is not installed in this cluster.",
                INSTALL_KSERVE,
            )
            return
        controller, version = self._controller(), self.kserve_version()
        if controller is None:
            yield Finding("KServe", Verdict.PASS, "Installed; its controller may not be seen.")
            return
        up = int((controller.get("status") or {}).get("availableReplicas") or 0)
        yield Finding(
            "KServe",
            Verdict.PASS if up else Verdict.FAIL,
            f"KServe {version}, controller and webhook {'up' if up else 'down'}.",
            ""
            if up
            else "kubectl describe pods -n kserve -l control-plane=kserve-controller-manager",
        )

    def _mode_findings(self) -> Iterator[Finding]:
        knative = self.has_knative()
        modes = "Standard and Knative" if knative else "Standard"
        detail = f"{modes}; the default is {self.default_mode()}."
        if not knative and self.default_mode() is Mode.KNATIVE:
            yield Finding(
                "modes",
                Verdict.WARN,
                f"{detail} Knative is the default, but is not installed.",
                'Set mode = "Standard" for the target, or install Knative Serving.',
            )
            return
        yield Finding("modes", Verdict.PASS, detail)

    def _runtime_findings(self) -> Iterator[Finding]:
        able = [runtime for runtime in self.runtimes() if runtime.takes_mlflow]
        if not able:
            yield Finding(
                "runtimes",
                Verdict.FAIL,
                "No runtime that takes MLflow models over V2 was found.",
                "Install KServe's cluster runtimes, or allow listing clusterservingruntimes"
                " (deploy/rbac.yaml).",
            )
        for runtime in able:
            known = ", ".join(f"{name} {version}" for name, version in runtime.libraries.items())
            told = "a server of it reports" if runtime.reported else "by its tag"
            source = f"; {told}: {known}" if known else "; its libraries are not known"
            yield Finding(
                f"runtime {one_line(runtime.name, 60)}",
                Verdict.PASS,
                one_line(f"image {runtime.image}{source}.", 512),
            )

    def _ingress_findings(self, ways_in: Callable[[], Sequence[str]]) -> Iterator[Finding]:
        try:
            answering = ways_in()
        except Denied as error:
            yield Finding("ingress", Verdict.SKIP, error.why, error.fix)
            return
        if answering:
            yield Finding("ingress", Verdict.PASS, f"Answers at {', '.join(answering)}.")
            return
        yield Finding(
            "ingress",
            Verdict.WARN,
            "No ingress answers from here; requests go through the API server's proxy.",
            "Set `ingress` for the target, or run `minikube tunnel`.",
        )

    def _room_findings(self) -> Iterator[Finding]:
        rooms = self.rooms()
        if not rooms:
            yield Finding("room", Verdict.SKIP, "The nodes may not be looked at.")
            return
        spoken = "; ".join(f"{one_line(room.node, 60)}: {room}" for room in rooms)
        left = (
            "left" if rooms[0].counted else "in all (its pods may not be listed, or are too many)"
        )
        yield Finding("room", Verdict.PASS, one_line(f"{spoken} {left}.", 512))
