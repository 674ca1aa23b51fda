"""The way to an API server, against a scripted one: errors, credentials, lost answers."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
import yaml

from services import inferenceservice as objects
from services import manifests
from services.cluster import Cluster
from services.domain import (
    Action,
    Intent,
    Json,
    Mode,
    OwnedField,
    Package,
    PackageKind,
    Plan,
    Release,
    Verdict,
    VersionRef,
)
from services.errors import (
    ConfigError,
    Conflict,
    Denied,
    NotDeployable,
    NotFound,
    SlipwayError,
    Unreachable,
)
from services.kserve import KServeServing
from services.kubeconfig import contexts
from services.rollout import utc_now
from tests.google import Authority

Answer = tuple[int, Json]


class ApiServer:
    """Answers what `answer` says; keeps what was asked. None as an answer cuts the connection."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[str, str, Json], Answer | None] = lambda *_: (200, {})
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                server.asked.append((self.command, parts.path, query))
                server.bodies.append(body)
                server.headers.append(dict(self.headers))
                given = server.answer(self.command, parts.path, body)
                if given is None:
                    self.close_connection = True
                    return
                text = json.dumps(given[1]).encode()
                self.send_response(given[0])
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = _any  # noqa: N815 (the base's names)
            do_POST = _any  # noqa: N815
            do_PATCH = _any  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server = ApiServer()
    yield server
    server.close()


def kubeconfig(folder: Path, url: str, user: Json) -> Path:
    file = folder / "kubeconfig"
    entries = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [
            {"name": "kind-dev", "context": {"cluster": "c", "user": "u", "namespace": "models"}},
            {"name": "minikube", "context": {"cluster": "c", "user": "u"}},
        ],
        "current-context": "minikube",
    }
    file.write_text(yaml.safe_dump(entries))
    return file


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Cluster:
    file = kubeconfig(tmp_path, api.url, {"token": "t0ken"})
    return Cluster(target="prod", context="kind-dev", kubeconfig=file)


def test_contexts_are_listed_with_what_they_are(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "https://api:6443", {})
    found = [(c.name, c.namespace, c.flavour, c.current) for c in contexts(file)]
    assert found == [
        ("kind-dev", "models", "kind", False),
        ("minikube", "default", "minikube", True),
    ]


def test_without_a_kubeconfig_there_are_no_contexts(tmp_path: Path) -> None:
    assert contexts(tmp_path / "none") == ()


@pytest.mark.parametrize(
    "text",
    ["- a", "users: 3", "users: [3]", "clusters: [{cluster: {}}]", "users: [{name: 1}]", "{"],
)
def test_a_file_that_is_no_kubeconfig_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    assert contexts(file) == ()
    with pytest.raises(ConfigError, match="cannot be read"):
        _ = Cluster(target="prod", context="x", kubeconfig=file).host


def test_a_context_that_does_not_exist_names_those_that_do(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "https://api:6443", {})
    with pytest.raises(ConfigError, match="kind-dev, minikube"):
        _ = Cluster(target="prod", context="gone", kubeconfig=file).host


def test_a_missing_gke_plugin_is_named_with_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    plugin = {"apiVersion": "client.authentication.k8s.io/v1beta1"}
    user = {"exec": {**plugin, "command": "gke-gcloud-auth-plugin"}}
    file = kubeconfig(tmp_path, "https://api:6443", user)
    with pytest.raises(Denied, match="gcloud components install gke-gcloud-auth-plugin"):
        Cluster(target="prod", context="kind-dev", kubeconfig=file).identity()


def test_an_anonymous_identity_is_told(api: ApiServer, cluster: Cluster) -> None:
    api.answer = lambda *_: (201, {"status": {"userInfo": {"username": "system:anonymous"}}})
    with pytest.raises(Denied, match="no credentials were sent"):
        cluster.identity()


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (401, "Unauthorized", Denied),
        (403, 'User "x" cannot patch resource "inferenceservices"', Denied),
        (404, "not found", NotFound),
        (409, "the object has been modified", Conflict),
        (422, "spec.x: invalid", NotDeployable),
        (400, 'admission webhook "v" denied the request: no', NotDeployable),
        (403, "exceeded quota: small", NotDeployable),
        (500, "etcdserver: leader changed", Unreachable),
    ],
)
def test_each_refusal_has_its_error(
    api: ApiServer, cluster: Cluster, status: int, message: str, kind: type[SlipwayError]
) -> None:
    api.answer = lambda *_: (status, {"kind": "Status", "message": message})
    with pytest.raises(kind) as caught:
        cluster.send("POST", "/x", doing="deploy wine")
    assert "deploy wine on prod" in caught.value.what
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize(
    ("refused", "why", "fix"),
    [
        (
            'cannot get resource "pods/log" in API group "" in the namespace "models"',
            "You (ana) may not get pods/log in models.",
            "the Role slipway of deploy/rbac.yaml",
        ),
        (
            'cannot delete resource "inferenceservices" in API group "x" in the namespace "models"',
            "You (ana) may not delete inferenceservices in models.",
            "the Role slipway-delete of deploy/rbac.yaml",
        ),
        (
            'cannot list resource "nodes" in API group "" at the cluster scope',
            "You (ana) may not list nodes at the cluster scope.",
            "the ClusterRole slipway-reader of deploy/rbac.yaml",
        ),
        (
            'cannot list resource "pods" in the namespace "models": requires one of ["pods.list"]',
            'You (ana) may not list pods in models. It requires one of ["pods.list"]',
            "the Role slipway of deploy/rbac.yaml",
        ),
    ],
    ids=["role", "optional", "everywhere", "gke"],
)
def test_a_refusal_begins_with_the_right_that_is_missing_and_names_its_role(
    api: ApiServer, cluster: Cluster, refused: str, why: str, fix: str
) -> None:
    message = f'pods is forbidden: User "ana" {refused}'
    api.answer = lambda *_: (403, {"kind": "Status", "message": message})
    with pytest.raises(Denied) as caught:
        cluster.get("/x", doing="look")
    assert caught.value.why.startswith(why)
    assert fix in caught.value.fix


def test_a_user_whose_name_forges_a_refusal_stays_one_line(
    api: ApiServer, cluster: Cluster
) -> None:
    message = 'x is forbidden: User "a\n\x1b[31mb" cannot get resource "p\u202eods" in API group ""'
    api.answer = lambda *_: (403, {"kind": "Status", "message": message})
    with pytest.raises(Denied) as caught:
        cluster.get("/x", doing="look")
    assert caught.value.why.isprintable()


def test_a_switched_current_context_moves_nothing(api: ApiServer, tmp_path: Path) -> None:
    """`kubectl config use-context` in another terminal, then credentials that are read again."""
    other = ApiServer()
    file = kubeconfig(tmp_path, api.url, {"token": "t0ken"})
    cluster = Cluster(target="prod", context="kind-dev", kubeconfig=file)
    cluster.get("/version", doing="x")
    found = yaml.safe_load(file.read_text())
    found["clusters"].append({"name": "other", "cluster": {"server": other.url}})
    found["contexts"].append({"name": "other", "context": {"cluster": "other", "user": "u"}})
    file.write_text(yaml.safe_dump({**found, "current-context": "other"}))
    refused_once = iter([(401, {"message": "Unauthorized"})])
    api.answer = lambda *_: next(refused_once, (200, {}))
    cluster.get("/version", doing="x")
    other.close()
    assert (len(api.asked), len(other.asked)) == (3, 0)


def test_a_token_that_was_renewed_is_read_again_once(api: ApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    file = kubeconfig(tmp_path, api.url, {"tokenFile": str(token)})
    cluster = Cluster(target="prod", context="kind-dev", kubeconfig=file)
    cluster.get("/version", doing="x")
    token.write_text("new")
    refused_once = iter([(401, {"message": "Unauthorized"})])
    api.answer = lambda *_: next(refused_once, (200, {}))
    assert cluster.get("/version", doing="x") == {}


def test_a_write_with_dead_credentials_is_sent_at_most_twice(
    api: ApiServer, cluster: Cluster
) -> None:
    api.answer = lambda *_: (401, {"message": "Unauthorized"})
    cluster._api()
    with pytest.raises(Denied) as refused:
        cluster.send("POST", "/api/v1/namespaces", doing="make a namespace", body={})
    assert refused.value.why.startswith("It answered 401")
    assert "not valid any more" in refused.value.why
    assert "Log in again" in refused.value.fix
    assert len(api.asked) == 2


def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "http://127.0.0.1:9", {"token": "t"})
    with pytest.raises(Unreachable, match="cluster-info"):
        Cluster(target="prod", context="kind-dev", kubeconfig=file).get("/x", doing="look")


def test_a_refused_connection_is_told_as_that_and_not_as_an_address(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "http://127.0.0.1:9", {"token": "t"})
    with pytest.raises(Unreachable) as gone:
        Cluster(target="prod", context="kind-dev", kubeconfig=file).get("/x", doing="look")
    assert gone.value.why == "The connection was refused: nothing listens there."


def test_who_was_silent_for_the_whole_time_is_not_asked_as_long_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        file = kubeconfig(tmp_path, f"http://127.0.0.1:{port}", {"token": "t"})
        cluster = Cluster(target="prod", context="kind-dev", kubeconfig=file)
        assert cluster.host
        began = time.monotonic()
        with pytest.raises(Unreachable):
            cluster.send("GET", "/x", doing="look", read_timeout_s=1)
        assert time.monotonic() - began < 1.9


def test_a_server_that_keeps_silent_is_told_with_the_seconds_that_were_waited(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        file = kubeconfig(tmp_path, f"http://127.0.0.1:{port}", {"token": "t"})
        cluster = Cluster(target="prod", context="kind-dev", kubeconfig=file)
        with pytest.raises(Unreachable) as late:
            cluster.send("POST", "/x", doing="look", body={}, read_timeout_s=0.6)
    assert re.fullmatch(r"No answer within \d+ s\.", late.value.why)


def test_a_connection_that_is_cut_is_told_as_broken(api: ApiServer, cluster: Cluster) -> None:
    api.answer = lambda *_: None
    with pytest.raises(Unreachable) as cut:
        cluster.get("/x", doing="look")
    assert cut.value.why.startswith("The connection broke")


def test_absence_is_a_value(api: ApiServer, cluster: Cluster) -> None:
    api.answer = lambda *_: (404, {})
    assert cluster.get("/x", doing="look") is None
    assert cluster.items("/x", doing="look") == []


def test_a_list_is_read_to_its_end(api: ApiServer, cluster: Cluster) -> None:
    def pages(*_: object) -> Answer:
        token = api.asked[-1][2].get("continue")
        number = int(token or 0)
        more = {"continue": str(number + 1)} if number < 2 else {}
        return 200, {"items": [{"n": number}], "metadata": more}

    api.answer = pages
    assert [item["n"] for item in cluster.items("/x", doing="list")] == [0, 1, 2]


def test_a_read_over_a_connection_that_was_cut_is_asked_again(
    api: ApiServer, cluster: Cluster
) -> None:
    api.answer = lambda *_: None if len(api.asked) == 1 else (200, {"ok": True})
    assert cluster.get("/x", doing="look") == {"ok": True}


# ── Exec plugins ──────────────────────────────────────────────────────────────────────────────

PROTOCOL = "client.authentication.k8s.io/v1"


def credential(**status: Json) -> str:
    return json.dumps({"apiVersion": PROTOCOL, "kind": "ExecCredential", "status": status})


def by_plugin(folder: Path, url: str, script: str, **more: Json) -> Cluster:
    """A cluster whose credentials come from a plugin that is this shell script."""
    plugin = folder / "plugin"
    plugin.write_text(f"#!/bin/sh\n{script}\n")
    plugin.chmod(0o755)
    said = {"apiVersion": PROTOCOL, "interactiveMode": "Never", "command": "./plugin", **more}
    file = kubeconfig(folder, url, {"exec": said})
    return Cluster(target="prod", context="kind-dev", kubeconfig=file)


def test_a_plugins_token_is_sent(api: ApiServer, tmp_path: Path) -> None:
    cluster = by_plugin(tmp_path, api.url, f"echo '{credential(token='t0ken')}'")
    cluster.get("/x", doing="look")
    assert api.headers[-1]["Authorization"] == "Bearer t0ken"


def test_a_plugins_token_is_fetched_again_before_it_ends(api: ApiServer, tmp_path: Path) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat().replace("+00:00", "Z")
    lines = [credential(token="1", expirationTimestamp=soon), credential(token="2")]
    (tmp_path / "lines").write_text("\n".join(lines))
    count = f"head -1 {tmp_path}/lines; sed -i 1d {tmp_path}/lines"
    cluster = by_plugin(tmp_path, api.url, count)
    cluster.get("/x", doing="look")
    time.sleep(0.6)
    cluster.get("/x", doing="look")
    assert [sent["Authorization"] for sent in api.headers] == ["Bearer 1", "Bearer 2"]


def test_a_plugin_is_told_which_cluster_it_is_for(api: ApiServer, tmp_path: Path) -> None:
    script = f"""printf %s "$KUBERNETES_EXEC_INFO" > {tmp_path}/told
[ "$PROFILE $1" = "dev login" ] && echo '{credential(token="t")}'"""
    env = [{"name": "PROFILE", "value": "dev"}]
    by_plugin(tmp_path, api.url, script, env=env, args=["login"], provideClusterInfo=True).get(
        "/x", doing="look"
    )
    told = json.loads((tmp_path / "told").read_text())
    assert (told["kind"], told["spec"]["cluster"]["server"]) == ("ExecCredential", api.url)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo no session >&2; exit 3", "exit code 3: no session"),
        ("echo hello", "no ExecCredential"),
        ("echo '[1, 2]'", "no ExecCredential"),
        ("true", "no ExecCredential"),
        (f"echo '{credential()}'", "neither a token nor a certificate"),
        (f"echo '{credential(clientCertificateData='x')}'", "neither a token nor a certificate"),
        (
            f"echo '{credential(token='t')}' | sed s,/v1,/v9,",
            "/v9; client.authentication.k8s.io/v1",
        ),
        (f"echo '{credential(token='t0ken', expirationTimestamp='soon')}'", "no ExecCredential"),
        ("head -c 9000000 /dev/zero", "no ExecCredential"),
    ],
)
def test_a_plugin_that_fails_is_no_cluster_that_is_away(
    api: ApiServer, tmp_path: Path, script: str, why: str
) -> None:
    with pytest.raises(Denied, match="its plugin plugin failed") as caught:
        by_plugin(tmp_path, api.url, script).identity()
    assert why in caught.value.why
    assert "t0ken" not in str(caught.value)
    assert api.asked == []


def test_a_plugin_that_never_ends_is_ended_with_its_children(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kubeconfig.PLUGIN_TIMEOUT_S", 0.5)
    script = f"echo open https://login >&2; sleep 600 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(Denied, match="did not end within") as caught:
        by_plugin(tmp_path, api.url, script).identity()
    assert "open https://login" in caught.value.why
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 10
    while runs(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not runs(child)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_plugin_that_wants_a_terminal_is_not_run(api: ApiServer, tmp_path: Path) -> None:
    cluster = by_plugin(tmp_path, api.url, f"touch {tmp_path}/ran", interactiveMode="Always")
    with pytest.raises(Denied, match="wants a terminal"):
        cluster.identity()
    assert not (tmp_path / "ran").exists()


def test_a_missing_plugin_gives_its_own_hint(api: ApiServer, tmp_path: Path) -> None:
    cluster = by_plugin(tmp_path, api.url, "", command="no-such-plugin", installHint="Get it.")
    with pytest.raises(Denied, match="is not there") as caught:
        cluster.identity()
    assert caught.value.fix == "Get it."


@pytest.mark.parametrize("said", [{}, {"installHint": None}, {"installHint": ""}])
def test_a_missing_plugin_without_a_hint_is_to_be_installed(
    api: ApiServer, tmp_path: Path, said: dict[str, Json]
) -> None:
    cluster = by_plugin(tmp_path, api.url, "", command="no-such-plugin", **said)
    with pytest.raises(Denied, match="is not there") as caught:
        cluster.identity()
    assert caught.value.fix == "Install no-such-plugin on the PATH of this process."


def test_a_failing_gke_plugin_is_sent_to_the_login_and_not_to_its_installation(
    api: ApiServer, tmp_path: Path
) -> None:
    plugin = tmp_path / "gke-gcloud-auth-plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        "printf 'F1 cred.go:145] print credential failed with error: no account\\n)' >&2\n"
        "exit 1\n"
    )
    plugin.chmod(0o755)
    cluster = by_plugin(tmp_path, api.url, "", command=str(plugin))
    with pytest.raises(Denied) as caught:
        cluster.identity()
    assert "print credential failed with error: no account" in caught.value.why
    assert "gcloud auth login" in caught.value.fix
    assert "components install" not in caught.value.fix


def test_relative_paths_count_from_their_own_kubeconfig(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("t0ken")
    file = kubeconfig(tmp_path, api.url, {"tokenFile": "token"})
    monkeypatch.chdir("/")
    Cluster(target="prod", context="kind-dev", kubeconfig=file).get("/x", doing="look")
    assert api.headers[-1]["Authorization"] == "Bearer t0ken"


# ── The one write ─────────────────────────────────────────────────────────────────────────────


class NoHistory:
    """A journal without releases."""

    def history(self, service: str) -> tuple[Release, ...]:
        return ()

    def histories(self) -> dict[str, tuple[Release, ...]]:
        return {}


INTENT = Intent("wine", VersionRef("wine", 1), Package(PackageKind.GCS, "gs://m/1"), Mode.STANDARD)


def plan_on(live: Json | None, **fields: Any) -> tuple[Plan, Release]:
    based_on = None if live is None else objects.object_version(live)
    plan = Plan(Action.DEPLOY, "wine", "prod", "models", None, INTENT, based_on, (), "n")
    release = Release(2, "wine", Action.DEPLOY, INTENT, "ana", "", utc_now(), workload=2)
    return replace(plan, **fields), release


class OneObject:
    """An API server's handling of one InferenceService, with a hook before each write."""

    def __init__(self, live: Json | None = None) -> None:
        self.live = live
        self.writes = 0
        self.lose_answers = 0
        self.before_write: Callable[[], None] = lambda: None

    def __call__(self, method: str, path: str, body: Json) -> Answer | None:
        if "/inferenceservices/" not in path:
            return 404, {}
        if method == "GET":
            return (200, self.live) if self.live else (404, {})
        self.before_write()
        given = body["metadata"].pop("resourceVersion", None)
        if self.live is not None and given != self.live["metadata"]["resourceVersion"]:
            return 409, {"message": "the object has been modified"}
        created = self.live is None
        self.writes += 1
        known: Json = self.live["metadata"] if self.live else {"uid": "u", "generation": 0}
        body["metadata"] |= {
            "uid": known["uid"],
            "generation": known["generation"] + 1,
            "resourceVersion": str(self.writes + 100),
        }
        self.live = body
        if self.lose_answers:
            self.lose_answers -= 1
            return None
        return 201 if created else 200, body


def existing(intent: Intent = INTENT) -> Json:
    mode = intent.mode.value
    made = manifests.manifest(intent, namespace="models", workload=1, mode_value=mode)
    made["metadata"] |= {"uid": "u", "generation": 1, "resourceVersion": "7"}
    return made


@pytest.fixture
def serving(cluster: Cluster) -> KServeServing:
    return KServeServing(cluster, "models", NoHistory(), sleep=lambda _: None)


def test_a_write_whose_answer_was_lost_is_found_and_not_sent_again(
    api: ApiServer, serving: KServeServing
) -> None:
    kept = OneObject()
    kept.lose_answers = 1
    api.answer = kept
    assert serving.apply(*plan_on(None)).release == 2
    assert kept.writes == 1


def test_a_canary_that_only_loses_its_share_is_written(
    api: ApiServer, serving: KServeServing
) -> None:
    wanted = replace(INTENT, mode=Mode.KNATIVE)
    kept = OneObject(existing(replace(wanted, canary_percent=10)))
    api.answer = kept
    plan, release = plan_on(kept.live, action=Action.PROMOTE, after=wanted, workload=1)
    serving.apply(plan, replace(release, intent=wanted, workload=1))
    assert kept.writes == 1


def test_a_status_that_changed_meanwhile_is_no_conflict(
    api: ApiServer, serving: KServeServing
) -> None:
    kept = OneObject(existing())
    api.answer = kept
    plan, release = plan_on(existing())
    turns = iter(("8", "9"))

    def controller_writes_status() -> None:
        assert kept.live is not None
        version = next(turns, None)
        if version:
            kept.live["metadata"]["resourceVersion"] = version

    kept.before_write = controller_writes_status
    serving.apply(plan, release)
    assert kept.writes == 1


def test_a_spec_that_changed_in_the_moment_of_the_write_is_a_conflict(
    api: ApiServer, serving: KServeServing
) -> None:
    kept = OneObject(existing())
    api.answer = kept
    plan, release = plan_on(existing())

    def somebody_edits() -> None:
        assert kept.live is not None
        kept.live["metadata"] |= {"resourceVersion": "8", "generation": 2}

    kept.before_write = somebody_edits
    with pytest.raises(Conflict, match="changed while you were looking"):
        serving.apply(plan, release)
    assert kept.writes == 0


def test_an_object_that_appeared_since_the_plan_is_a_conflict(
    api: ApiServer, serving: KServeServing
) -> None:
    api.answer = OneObject(existing())
    with pytest.raises(Conflict, match="exists meanwhile"):
        serving.apply(*plan_on(None))


def test_the_write_is_strict_and_by_slipway_without_force(
    api: ApiServer, serving: KServeServing
) -> None:
    api.answer = OneObject()
    serving.apply(*plan_on(None))
    (query,) = [query for method, _, query in api.asked if method == "PATCH"]
    assert query == {"fieldManager": "slipway", "fieldValidation": "Strict"}


MINE = OwnedField(".spec.predictor.minReplicas", "kubectl-edit")


class Owned(OneObject):
    """An object of which somebody else owns a field that the manifest sets."""

    def __init__(self, api: ApiServer) -> None:
        super().__init__(existing())
        self.api = api

    def __call__(self, method: str, path: str, body: Json) -> Answer | None:
        if "/inferenceservices/" not in path:
            return (200, {"status": {"allowed": True}}) if method == "POST" else (404, {})
        if method == "PATCH" and self.api.asked[-1][2].get("force") != "true":
            cause = {
                "reason": "FieldManagerConflict",
                "message": f'conflict with "{MINE.manager}" using serving.kserve.io/v1beta1',
                "field": MINE.field,
            }
            return 409, {"message": "Apply failed", "details": {"causes": [cause]}}
        return super().__call__(method, path, body)


def test_a_field_of_others_blocks_a_plan_and_is_named_with_its_owner(
    api: ApiServer, serving: KServeServing
) -> None:
    api.answer = Owned(api)
    plan, _ = plan_on(existing())
    rehearsed = serving.rehearse(plan)
    (failed,) = [f for f in rehearsed.findings if f.name == "dry run"]
    assert failed.verdict is Verdict.FAIL
    assert rehearsed.owned == (MINE,)
    assert str(MINE) in failed.detail
    assert "--take-over kubectl-edit" in failed.fix
    assert failed.refusal is Conflict


def test_with_consent_the_same_fields_are_taken_and_no_others(
    api: ApiServer, serving: KServeServing
) -> None:
    api.answer = Owned(api)
    plan, release = plan_on(existing())
    serving.apply(replace(plan, takes=(MINE,)), release)
    forced = [query for method, _, query in api.asked if method == "PATCH" and "force" in query]
    assert len(forced) == 1


@pytest.mark.parametrize("manager", ["argocd-controller", "kubectl-edit-2"])
def test_consent_to_one_manager_is_none_to_another(
    api: ApiServer, serving: KServeServing, manager: str
) -> None:
    api.answer = Owned(api)
    plan, release = plan_on(existing())
    with pytest.raises(Conflict, match="others own"):
        serving.apply(replace(plan, takes=(replace(MINE, manager=manager),)), release)
    assert not [query for method, _, query in api.asked if "force" in query]


@pytest.mark.parametrize(
    ("status", "message", "fix"),
    [
        (500, 'failed calling webhook "inferenceservice": EOF', "Try again in a moment"),
        (500, ".spec.predictor.nodeSelectr: field not declared in schema", "Correct the patch"),
        (400, 'admission webhook "inferenceservice" denied the request', "Change the plan."),
    ],
)
def test_a_webhook_that_is_away_is_no_fault_of_the_plan(
    api: ApiServer, serving: KServeServing, status: int, message: str, fix: str
) -> None:
    answers = {"PATCH": (status, {"message": message}), "GET": (404, {})}
    api.answer = lambda method, *_: answers.get(method, (200, {}))
    rehearsed = serving.rehearse(plan_on(None)[0])
    [dry_run] = [finding for finding in rehearsed.findings if finding.name == "dry run"]
    assert dry_run.detail == message
    assert dry_run.fix.startswith(fix)


def test_a_kubeconfig_file_that_is_not_there_is_told_by_the_targets_key(tmp_path: Path) -> None:
    gone = Cluster(target="prod", context="kind-dev", kubeconfig=tmp_path / "gone")
    with pytest.raises(ConfigError) as caught:
        gone.get("/x", doing="look")
    assert "targets.NAME.kubeconfig" in caught.value.fix


def test_the_command_to_look_with_names_the_targets_kubeconfig(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "http://127.0.0.1:9", {"token": "t"})
    with pytest.raises(Unreachable) as caught:
        Cluster(target="prod", context="kind-dev", kubeconfig=file).get("/x", doing="look")
    assert f"kubectl --kubeconfig {file} --context kind-dev cluster-info" in caught.value.fix


class _Quiet(BaseHTTPRequestHandler):
    """Knows no method: 501."""

    def log_message(self, *_: object) -> None:
        pass


def test_a_certificate_that_is_not_checked_is_not_warned_of_at_each_request(
    tmp_path: Path,
) -> None:
    certificates = Authority(tmp_path, "theirs")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Quiet)
    server.socket = certificates.tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    file = kubeconfig(tmp_path, f"https://127.0.0.1:{server.server_port}", {"token": "t"})
    said = yaml.safe_load(file.read_text())
    said["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    file.write_text(yaml.safe_dump(said))
    cluster = Cluster(target="prod", context="kind-dev", kubeconfig=file)
    with pytest.raises(Unreachable):  # 501: it knows no method; warnings are errors here
        cluster.get("/x", doing="look")
    assert not cluster.verified
    server.shutdown()
    server.server_close()


BROKEN_PEM = base64.b64encode(
    b"-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n"
).decode()


def by_certificate(folder: Path, cluster: Json, user: Json) -> Cluster:
    file = kubeconfig(folder, "https://127.0.0.1:9", user)
    said = yaml.safe_load(file.read_text())
    said["clusters"][0]["cluster"] |= cluster
    file.write_text(yaml.safe_dump(said))
    return Cluster(target="prod", context="kind-dev", kubeconfig=file)


def test_a_broken_client_certificate_is_the_kubeconfigs_and_not_the_servers(tmp_path: Path) -> None:
    user = {"client-certificate-data": BROKEN_PEM, "client-key-data": BROKEN_PEM}
    with pytest.raises(ConfigError, match="the client-certificate-data") as caught:
        by_certificate(tmp_path, {}, user).identity()
    assert caught.value.why
    assert caught.value.fix


def test_a_broken_certificate_in_a_file_is_named_as_the_kubeconfig_names_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.pem").write_bytes(base64.b64decode(BROKEN_PEM))
    with pytest.raises(ConfigError, match=r"the client-certificate \(or"):
        by_certificate(tmp_path, {}, {"client-certificate": "mine.pem"}).identity()


def test_a_broken_ca_is_the_kubeconfigs_and_not_the_servers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the certificate-authority-data"):
        by_certificate(tmp_path, {"certificate-authority-data": BROKEN_PEM}, {}).identity()


@pytest.mark.parametrize("name", ["client-certificate-data", "client-key-data"])
def test_certificate_data_that_is_no_base64_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"the {name}"):
        by_certificate(tmp_path, {}, {name: "abc"}).identity()


def test_a_certificate_that_was_mended_is_read_again(tmp_path: Path) -> None:
    cluster = by_certificate(tmp_path, {"certificate-authority-data": BROKEN_PEM}, {})
    with pytest.raises(ConfigError):
        cluster.identity()
    whole = base64.b64encode(Authority(tmp_path, "ours").pem.encode()).decode()
    by_certificate(tmp_path, {"certificate-authority-data": whole}, {})
    with pytest.raises(Unreachable, match="did not answer"):
        cluster.identity()
