"""Slipway under the Role that it ships: everything works, and each missing verb is named."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from services import rollout
from services.cluster import MERGE_PATCH, Cluster
from services.domain import Json, Mode, Outcome, TestResult, Verdict, WayIn
from services.errors import Denied
from services.facilities import RIGHTS, WATCHING, Facilities, Right
from services.gcs import GcsPackager
from services.journal import ClusterJournal
from services.kserve import KServeOptions, KServeServing
from tests.cluster.conftest import ClusterOps, Voyage
from tests.memory import MemoryRegistry

ROLES = Path(__file__).parents[2] / "deploy" / "rbac.yaml"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.fixture
def shipped() -> list[Json]:
    """The objects of deploy/rbac.yaml."""
    return [item for item in yaml.safe_load_all(ROLES.read_text(encoding="utf-8")) if item]


@pytest.fixture
def restricted(
    cluster: Cluster, namespace: str, shipped: list[Json], tmp_path: Path
) -> Iterator[Cluster]:
    """The same cluster, as a service account that has the shipped Role and nothing else."""
    account = f"slipway-{secrets.token_hex(3)}"
    base = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    cluster.send("POST", base, doing="x", body={"metadata": {"name": account}})
    role = next(o for o in shipped if o["kind"] == "Role" and o["metadata"]["name"] == "slipway")
    reader = next(o for o in shipped if o["kind"] == "ClusterRole")
    for path, body in (
        (f"{RBAC}/namespaces/{namespace}/roles", {**role, "metadata": {"name": account}}),
        (f"{RBAC}/clusterroles", {**reader, "metadata": {"name": account}}),
        (f"{RBAC}/namespaces/{namespace}/rolebindings", _binding("Role", account, namespace)),
        (f"{RBAC}/clusterrolebindings", _binding("ClusterRole", account, namespace)),
    ):
        cluster.send("POST", path, doing="x", body=body)
    token = cluster.send("POST", f"{base}/{account}/token", doing="x", body={"spec": {}}).body
    yield _as(cluster, token["status"]["token"], tmp_path)
    for path in (f"{RBAC}/clusterroles/{account}", f"{RBAC}/clusterrolebindings/{account}"):
        cluster.send("DELETE", path, doing="x")


def _binding(kind: str, account: str, namespace: str) -> Json:
    return {
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }


def _as(cluster: Cluster, token: str, folder: Path) -> Cluster:
    configuration = cluster._api().configuration
    file = folder / "kubeconfig"
    entry = {"server": configuration.host, "certificate-authority": configuration.ssl_ca_cert}
    file.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": entry}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "restricted", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    return Cluster(target="restricted", context="restricted", kubeconfig=file)


def test_a_voyage_works_under_the_shipped_role(  # noqa: PLR0917 (fixtures by name)
    restricted: Cluster,
    namespace: str,
    bucket: str,
    emulator: str,
    registry: MemoryRegistry,
    ops: ClusterOps,
    tmp_path: Path,
) -> None:
    journal = ClusterJournal(restricted, namespace)
    mine = replace(
        ops,
        packager=GcsPackager(bucket, registry, tmp_path / "staged", emulator=emulator),
        serving=KServeServing(restricted, namespace, journal),
        journal=journal,
    )
    journey = Voyage(mine, f"wine-{secrets.token_hex(2)}", Mode.STANDARD)
    assert journey.deploy(1).outcome is Outcome.VERIFIED
    assert journey.deploy(2).outcome is Outcome.VERIFIED
    assert journey.plan(rollout.plan_rollback).outcome is Outcome.VERIFIED
    assert not [f for f in mine.serving.check() if f.verdict is Verdict.FAIL]
    assert list(mine.serving.logs(journey.service))
    assert mine.serving.events(journey.service)
    with pytest.raises(Denied, match="delete"):
        journey.plan(lambda current, _history: rollout.plan_delete(current))


def test_each_missing_verb_is_named(
    restricted: Cluster, cluster: Cluster, namespace: str, shipped: list[Json]
) -> None:
    account = restricted.identity().rpartition(":")[2]
    path = f"{RBAC}/namespaces/{namespace}/roles/{account}"
    whole = cluster.get(path, doing="x")
    assert whole is not None
    facilities = Facilities(restricted, namespace)
    assert facilities.missing_rights((*RIGHTS, *WATCHING)) == []
    for right in (*RIGHTS, *WATCHING):
        for verb in right.verbs:
            less = [_without(rule, right.group, right.name, verb) for rule in whole["rules"]]
            rules = [rule for several in less for rule in several]
            cluster.send("PATCH", path, doing="x", body={"rules": rules}, content_type=MERGE_PATCH)
            expected = [(right.name, [verb])]
            assert _missing(facilities, right, expected) == expected
    cluster.send("PATCH", path, doing="x", body={"rules": whole["rules"]}, content_type=MERGE_PATCH)


def _missing(
    facilities: Facilities, right: Right, expected: list[tuple[str, list[str]]]
) -> list[tuple[str, list[str]]]:
    """What is missing, once the API server's authorizer has heard of the change."""
    until = time.monotonic() + 20
    found: list[tuple[str, list[str]]] = []
    while found != expected:
        found = [(r.name, verbs) for r, verbs in facilities.missing_rights((right,))]
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return found


def _without(rule: Json, group: str, resource: str, verb: str) -> list[Json]:
    """A rule as one rule a resource, of which one lacks a verb."""
    parted = []
    for name in rule["resources"]:
        verbs = [
            v
            for v in rule["verbs"]
            if not (v == verb and name == resource and group in rule["apiGroups"])
        ]
        if verbs:
            parted.append({**rule, "resources": [name], "verbs": verbs})
    return parted


FORWARDING = {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]}


@pytest.mark.parametrize("mode", [Mode.STANDARD, Mode.KNATIVE])
def test_without_ingress_and_proxy_a_port_is_forwarded(  # noqa: PLR0917 (fixtures by name)
    restricted: Cluster,
    cluster: Cluster,
    namespace: str,
    ops: ClusterOps,
    voyage: Callable[[Mode], Voyage],
    mode: Mode,
) -> None:
    journey = voyage(mode)
    journey.deploy(2)
    account = restricted.identity().rpartition(":")[2]
    path = f"{RBAC}/namespaces/{namespace}/roles/{account}"
    role = cluster.get(path, doing="x")
    assert role is not None
    unproxied = [rule for rule in role["rules"] if "pods/proxy" not in rule["resources"]]
    for rules in (unproxied, [*unproxied, FORWARDING]):
        cluster.send("PATCH", path, doing="x", body={"rules": rules}, content_type=MERGE_PATCH)
    until = time.monotonic() + 20
    while restricted.may("create", "", "pods", namespace, "proxy") or not restricted.may(
        "create", "", "pods", namespace, "portforward"
    ):
        assert time.monotonic() < until
        time.sleep(0.05)
    nowhere = KServeOptions(ingress="http://127.0.0.1:9")
    serving = KServeServing(restricted, namespace, ops.journal, nowhere)
    mine = replace(ops, serving=serving)
    endpoint = serving.endpoint(journey.service)
    assert endpoint.via is WayIn.PORT_FORWARD
    assert "port-forward to pod" in endpoint.why
    through = Voyage(mine, journey.service, mode)
    assert [through.answer() for _ in range(5)] == [2] * 5
    assert mine.predictor.ready(endpoint)
    release = ops.journal.history(journey.service)[0]
    assert rollout.try_inference(mine, release) == (TestResult.PASS, "")
