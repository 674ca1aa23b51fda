"""The account that Slipway acts with in the cluster tier: the shipped Roles, and nothing else.

`admin` is whoever the suite was given; it arranges things as a cluster's owner does, and plays the
people who edit behind Slipway's back. What Slipway itself sends goes out as this account.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from services.cluster import MERGE_PATCH, Cluster
from services.domain import Json
from tests import waiting

SHIPPED = Path(__file__).parents[2] / "deploy" / "rbac.yaml"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
CONTEXT = "slipway-test"
TOKEN_LIFE_S = 24 * 3600
"""Longer than any run; an API server may give less, at least an hour."""
NOTICED_WITHIN_S = 20
"""The API server's authorizer hears of a changed Role within a second, on a busy machine later."""

GROUPS = {"pods": "", "controllerrevisions": "apps"} | dict.fromkeys(
    ("inferenceservices", "servingruntimes"), "serving.kserve.io"
)

ALWAYS = "slipway"
ENVIRONMENTS, FORWARD, DELETE = "slipway-environments", "slipway-forward", "slipway-delete"
"""The Roles of deploy/rbac.yaml; all but the first are optional."""


def shipped() -> list[Json]:
    """The objects of deploy/rbac.yaml."""
    return [item for item in yaml.safe_load_all(SHIPPED.read_text(encoding="utf-8")) if item]


def rules_of(kind: str, name: str) -> list[Json]:
    """The rules of a Role or ClusterRole as it is shipped."""
    (found,) = [
        item for item in shipped() if (item["kind"], item["metadata"]["name"]) == (kind, name)
    ]
    rules: list[Json] = found["rules"]
    return rules


@dataclass(frozen=True)
class Account:
    """A service account of `home`, and the kubeconfig that holds its token."""

    admin: Cluster
    home: str
    name: str
    kubeconfig: Path

    @property
    def cluster(self) -> Cluster:
        """A connection of its own, as this account."""
        return Cluster(target="test", context=CONTEXT, kubeconfig=self.kubeconfig)

    @property
    def token(self) -> str:
        """What it is known by."""
        (user,) = yaml.safe_load(self.kubeconfig.read_text(encoding="utf-8"))["users"]
        return str(user["user"]["token"])

    def may_work_in(self, namespace: str) -> None:
        """Apply the Role that is always needed to a namespace, and bind it."""
        path = self._role(namespace, ALWAYS)
        body = {"metadata": {"name": self._named(ALWAYS)}, "rules": rules_of("Role", ALWAYS)}
        self.admin.send("POST", path.rpartition("/")[0], doing="make the Role", body=body)
        self.bind(namespace)
        self.until("patch", "inferenceservices", namespace, allowed=True)

    def bind(self, namespace: str, role: str = ALWAYS) -> None:
        """Bind one of the Roles in a namespace that has it."""
        bindings = f"{RBAC}/namespaces/{namespace}/rolebindings"
        body = self._binding("Role", self._named(role))
        self.admin.send("POST", bindings, doing="bind the Role", body=body)

    def unbind(self, namespace: str, role: str = ALWAYS) -> None:
        """Take the Role away again, and wait until the API server refuses."""
        path = f"{RBAC}/namespaces/{namespace}/rolebindings/{self._named(role)}"
        self.admin.send("DELETE", path, doing="take the Role away")
        if role == ALWAYS:
            self.until("get", "inferenceservices", namespace, allowed=False)

    @contextmanager
    def also(self, role: str, namespace: str) -> Iterator[None]:
        """With an optional Role too, as the documentation says for what is done in here."""
        roles = self._role(namespace, role).rpartition("/")[0]
        rules = rules_of("Role", role)
        body = {"metadata": {"name": self._named(role)}, "rules": rules}
        self.admin.send("POST", roles, doing="make the Role", body=body)
        self.bind(namespace, role)
        first = rules[0]
        self.until(first["verbs"][-1], first["resources"][0], namespace, allowed=True)
        yield
        self.unbind(namespace, role)
        self.admin.send("DELETE", self._role(namespace, role), doing="remove the Role")

    def rules(self, namespace: str) -> list[Json]:
        """What the Role that is always needed says now."""
        found = self.admin.get(self._role(namespace, ALWAYS), doing="read the Role")
        assert found is not None
        rules: list[Json] = found["rules"]
        return rules

    def set_rules(self, namespace: str, rules: Sequence[Json]) -> None:
        """Have the Role say something else. The authorizer hears of it a moment later."""
        self.admin.send(
            "PATCH",
            self._role(namespace, ALWAYS),
            doing="edit the Role",
            body={"rules": list(rules)},
            content_type=MERGE_PATCH,
        )

    def forget(self) -> None:
        """Remove what is outside of namespaces; the rest goes with them."""
        for kind in ("clusterrolebindings", "clusterroles"):
            self.admin.send("DELETE", f"{RBAC}/{kind}/{self.name}", doing="clean up", accept=(404,))

    def _named(self, role: str) -> str:
        return f"{role}-{self.name}"

    def _role(self, namespace: str, role: str) -> str:
        return f"{RBAC}/namespaces/{namespace}/roles/{self._named(role)}"

    def _binding(self, kind: str, role: str) -> Json:
        subject = {"kind": "ServiceAccount", "name": self.name, "namespace": self.home}
        return {
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [subject],
        }

    def until(self, verb: str, resource: str, namespace: str, *, allowed: bool) -> None:
        """Wait until the API server's authorizer has heard of a change."""
        main, _, sub = resource.partition("/")
        group = GROUPS[main]
        heard = waiting.seen(
            lambda: self.cluster.may(verb, group, main, namespace, sub) is allowed,
            within_s=NOTICED_WITHIN_S,
            every_s=0.05,
        )
        assert heard, f"{verb} {resource} is still {not allowed}"


@contextmanager
def account(admin: Cluster, home: str, folder: Path) -> Iterator[Account]:
    """A new account in `home` with the shipped Role there and the read-only ClusterRole."""
    name = f"slipway-{secrets.token_hex(3)}"
    accounts = f"/api/v1/namespaces/{home}/serviceaccounts"
    admin.send("POST", accounts, doing="make an account", body={"metadata": {"name": name}})
    life = {"spec": {"expirationSeconds": TOKEN_LIFE_S}}
    asked = admin.send("POST", f"{accounts}/{name}/token", doing="ask for a token", body=life)
    file = folder / "kubeconfig"
    made = Account(admin, home, name, file)
    file.write_text(kubeconfig(admin, {CONTEXT: {"token": asked.body["status"]["token"]}}))
    reader = {"metadata": {"name": name}, "rules": rules_of("ClusterRole", "slipway-reader")}
    admin.send("POST", f"{RBAC}/clusterroles", doing="make the ClusterRole", body=reader)
    try:
        body = made._binding("ClusterRole", name)
        admin.send("POST", f"{RBAC}/clusterrolebindings", doing="bind the ClusterRole", body=body)
        made.may_work_in(home)
        yield made
    finally:
        made.forget()


def kubeconfig(admin: Cluster, users: dict[str, Json]) -> str:
    """A kubeconfig of the cluster with a context for each user, named as the user is."""
    given = admin._api().configuration
    place = {"server": given.host, "certificate-authority": given.ssl_ca_cert}
    named = {name: {"cluster": "c", "user": name} for name in users}
    return yaml.safe_dump(
        {
            "clusters": [{"name": "c", "cluster": place}],
            "users": [{"name": name, "user": user} for name, user in users.items()],
            "contexts": [{"name": name, "context": context} for name, context in named.items()],
        }
    )


def without(rules: Sequence[Json], group: str, resource: str, verb: str) -> list[Json]:
    """Rules that lack one verb on one resource, and nothing else."""
    return [
        {**rule, "resources": [name], "verbs": verbs}
        for rule in rules
        for name in rule["resources"]
        if (
            verbs := [
                found
                for found in rule["verbs"]
                if (found, name) != (verb, resource) or group not in rule["apiGroups"]
            ]
        )
    ]


@contextmanager
def scratch(admin: Cluster) -> Iterator[str]:
    """A namespace of a test's own."""
    name = f"slipway-test-{secrets.token_hex(3)}"
    labels = {"slipway.dev/test": "true"}
    body = {"metadata": {"name": name, "labels": labels}}
    admin.send("POST", "/api/v1/namespaces", doing="make a namespace", body=body)
    try:
        yield name
    finally:
        admin.send("DELETE", f"/api/v1/namespaces/{name}", doing="remove the namespace")
