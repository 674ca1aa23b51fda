"""Ways in that a kubeconfig or a pod holds: its contexts, their exec plugins, the pod's account.

Exec plugins are run here and not by the Kubernetes client, which logs their failure, goes on as
system:anonymous and waits for them without a bound (kubernetes 37.0.2,
kube_config._load_from_exec_plugin). A plugin that is missing, fails, prints something else or never
ends is told by name, and never as a cluster that does not answer.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import signal
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config as kubernetes_config
from kubernetes.config.config_exception import ConfigException

from services.access import KeptToken, Token
from services.domain import Json
from services.errors import ConfigError, Denied, one_line

IN_CLUSTER = "in-cluster"
"""The context that means: the service account of the pod that Slipway runs in."""

PLUGIN_TIMEOUT_S = 20.0
"""A plugin asks an identity provider over the network; one that asks a human never ends."""

_PLUGIN_OUTPUT_BYTES = 256 * 1024
_GKE_PLUGIN = "gke-gcloud-auth-plugin"
_GKE_PLUGIN_FIX = (
    "Install it: gcloud components install gke-gcloud-auth-plugin (where gcloud came from apt:"
    " apt-get install google-cloud-cli-gke-gcloud-auth-plugin). Then put it on the PATH of the"
    " process that runs Slipway:"
    " export PATH=\"$PATH:$(gcloud info --format='value(installation.sdk_root)')/bin\". A target of"
    ' kind = "gke" needs no plugin.'
)
_RELATIVE = {
    "clusters": ("certificate-authority",),
    "users": ("client-certificate", "client-key", "tokenFile"),
}
"""Settings whose relative paths count from the folder of the kubeconfig that they stand in."""


# ── Contexts ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Context:
    """One context of a kubeconfig, as a picker shows it."""

    name: str
    server: str
    namespace: str
    current: bool
    flavour: str = ""
    """minikube, kind or gke, told by the context's name or its credentials; "" otherwise."""


def contexts(kubeconfig: Path | None = None) -> tuple[Context, ...]:
    """Every context of the kubeconfig, by name; empty without a kubeconfig. Asks no server."""
    try:
        merged = _merged(kubeconfig)
    except ConfigError:
        return ()
    servers = {entry["name"]: entry.get("cluster") or {} for entry in merged.get("clusters") or ()}
    users = {entry["name"]: entry.get("user") or {} for entry in merged.get("users") or ()}
    current = merged.get("current-context")
    found = []
    for entry in merged.get("contexts") or ():
        context = entry.get("context") or {}
        user = users.get(context.get("user"), {})
        found.append(
            Context(
                name=entry["name"],
                server=str(servers.get(context.get("cluster"), {}).get("server", "")),
                namespace=str(context.get("namespace") or "default"),
                current=entry["name"] == current,
                flavour=_flavour(entry["name"], user),
            )
        )
    return tuple(sorted(found, key=lambda context: context.name))


def _flavour(name: str, user: Mapping[str, Json]) -> str:
    if name == "minikube":
        return "minikube"
    if name.startswith("kind-"):
        return "kind"
    command = str((user.get("exec") or {}).get("command", ""))
    return "gke" if name.startswith("gke_") or command.endswith(_GKE_PLUGIN) else ""


def _merged(kubeconfig: Path | None) -> dict[str, Json]:
    """The kubeconfig as one mapping; of several files in KUBECONFIG the first to name it wins."""
    location = (
        str(kubeconfig)
        if kubeconfig
        else kubernetes_config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    )
    paths = [Path(part).expanduser() for part in location.split(os.pathsep) if part]
    merged: dict[str, Json] = {}
    for path in paths:
        if not path.is_file():
            continue
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            kinds = {kind: _named(found, kind) for kind in ("clusters", "users", "contexts")}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(
                f"The kubeconfig {path} cannot be read.",
                why=one_line(error),
                fix="Write it again with your cluster's own tool.",
            ) from error
        for kind, entries in kinds.items():
            known = merged.setdefault(kind, [])
            names = {entry["name"] for entry in known}
            fresh = [entry for entry in entries if entry["name"] not in names]
            for entry in fresh:
                _anchor(entry.get(kind.removesuffix("s")), _RELATIVE.get(kind, ()), path.parent)
            known.extend(fresh)
        merged["current-context"] = merged.get("current-context") or found.get("current-context")
    if not merged:
        raise ConfigError(
            "There is no kubeconfig.",
            why=f"Looked for {one_line(location)}.",
            fix="Correct `kubeconfig` of the target in slipway.toml"
            " (targets.NAME.kubeconfig), or take it out for KUBECONFIG's."
            if kubeconfig
            else "Set KUBECONFIG, or let your cluster's tool write one (minikube start, kind create"
            " cluster).",
        )
    return merged


def _named(found: Json, kind: str) -> list[Json]:
    """The entries of one kind. ValueError for a file that is no kubeconfig."""
    entries = found.get(kind) or [] if isinstance(found, dict) else None
    fits = isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get(kind.removesuffix("s")) or {}, dict)
        for entry in entries
    )
    if not fits:
        message = f"its {kind} are no list of named entries"
        raise ValueError(message)
    return list(entries or ())


def _anchor(entry: Json, keys: tuple[str, ...], folder: Path) -> None:
    """Make the relative paths of one entry absolute, and its plugin's, where it is a path."""
    if not isinstance(entry, dict):
        return
    for key in keys:
        if entry.get(key):
            entry[key] = str(folder.absolute() / str(entry[key]))
    plugin = entry.get("exec")
    if isinstance(plugin, dict) and os.sep in str(plugin.get("command", "")):
        plugin["command"] = str(folder.absolute() / str(plugin["command"]))


# ── A context ─────────────────────────────────────────────────────────────────────────────────


class KubeconfigAccess:
    """One context of a kubeconfig, by its name: the current context is never followed."""

    inside = False
    workload_pool = None

    def __init__(self, *, target: str, context: str, kubeconfig: Path | None = None) -> None:
        """`target` is only for messages."""
        self._target = target
        self._context = context
        self._kubeconfig = kubeconfig
        # Certificates that a plugin printed, as the TLS library wants them: files, removed with us.
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def words(self) -> str:
        """The way in words."""
        return f"context {one_line(self._context)}"

    @property
    def look(self) -> str:
        """What to do when the API server does not answer."""
        file = ("--kubeconfig", str(self._kubeconfig)) if self._kubeconfig else ()
        line = shlex.join(("kubectl", *file, "--context", self._context, "cluster-info"))
        return f"Is the cluster up? `{one_line(line, 512)}`"

    @property
    def log_in(self) -> str:
        """What to do when the API server does not take the credentials."""
        named = {context.name: context for context in contexts(self._kubeconfig)}
        is_gke = self._context in named and named[self._context].flavour == "gke"
        return "Log in again with your cluster's tool." + (f" {_GKE_PLUGIN_FIX}" if is_gke else "")

    def configure(self, configuration: Any) -> None:  # noqa: ANN401 (the client has no types)
        """Read the context anew. ConfigError for one that is not there, Denied for its plugin."""
        merged = _merged(self._kubeconfig)
        user = self._user(merged)
        plugin = user.pop("exec", None)
        self._refuse_what_is_no_base64(self._cluster(merged), "certificate-authority")
        self._refuse_what_is_no_base64(user, "client-certificate", "client-key")
        try:
            kubernetes_config.load_kube_config_from_dict(
                merged,
                context=self._context or None,
                client_configuration=configuration,
                persist_config=False,
            )
        except (ConfigException, OSError, ValueError) as error:
            raise ConfigError(
                f"Target {self._target} cannot be connected.",
                why=one_line(error),
                fix="List what there is with kubectl config get-contexts and correct `context` in"
                " slipway.toml.",
            ) from error
        self._refuse_broken_certificates(configuration, self._cluster(merged), user)
        # A token that stands in the kubeconfig goes before a plugin, as kubectl has it.
        if plugin and "BearerToken" not in configuration.api_key:
            self._let_in_by(_Plugin(self._target, plugin, self._cluster(merged)), configuration)

    def _refuse_what_is_no_base64(self, entry: Mapping[str, Json], *names: str) -> None:
        """ConfigError; the client would say so without a name, and in words of its context."""
        for name in names:
            with self._usable(name, entry):
                base64.b64decode(str(entry.get(f"{name}-data") or ""))

    def _refuse_broken_certificates(
        self,
        configuration: Any,  # noqa: ANN401 (the client has no types)
        cluster: Mapping[str, Json],
        user: Mapping[str, Json],
    ) -> None:
        """ConfigError for certificates that no TLS library can read.

        At the handshake they would be told as the server's: one error stands for both sides there.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if configuration.ssl_ca_cert:
            with self._usable("certificate-authority", cluster):
                context.load_verify_locations(configuration.ssl_ca_cert)
        if configuration.cert_file:
            with self._usable("client-certificate", user):
                context.load_cert_chain(
                    configuration.cert_file,
                    configuration.key_file,
                    password=lambda: "",  # an encrypted key is told, and asks no terminal
                )

    @contextmanager
    def _usable(self, name: str, entry: Mapping[str, Json]) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            told = f"{name}-data" if entry.get(f"{name}-data") else name
            key = " (or its key)" if name == "client-certificate" else ""
            raise ConfigError(
                f"Target {self._target} cannot be connected: the {told}{key} in its kubeconfig is"
                " broken.",
                why=f"{one_line(error)}.",
                fix="Write the context again with your cluster's own tool.",
            ) from error

    def _let_in_by(self, plugin: _Plugin, configuration: Any) -> None:  # noqa: ANN401 (as above)
        first = plugin.run()
        if first.certificate:
            self._folder = tempfile.TemporaryDirectory(prefix="slipway-certificate-")
            for name, text in (("cert_file", first.certificate), ("key_file", first.key)):
                path = Path(self._folder.name, name)
                path.write_text(text, encoding="utf-8")
                path.chmod(0o600)
                setattr(configuration, name, str(path))
        if first.token is None:
            return
        pending = [first.token]
        kept = KeptToken(lambda: pending.pop() if pending else plugin.token())

        def renew(configuration: Any) -> None:  # noqa: ANN401 (as above)
            configuration.api_key["BearerToken"] = f"Bearer {kept.value()}"

        renew(configuration)
        configuration.refresh_api_key_hook = renew

    def _chosen(self, merged: Mapping[str, Json]) -> Mapping[str, Json]:
        named = {entry["name"]: entry for entry in merged.get("contexts") or ()}
        chosen = named.get(self._context or merged.get("current-context"))
        if chosen is None:
            raise ConfigError(
                f"Target {self._target} names the context {one_line(self._context)!r}, which the"
                " kubeconfig does not have.",
                why=f"It has {', '.join(sorted(one_line(name) for name in named)) or 'none'}.",
                fix="Correct `context` in slipway.toml, or set KUBECONFIG to the file that has it.",
            )
        return chosen.get("context") or {}

    def _user(self, merged: Mapping[str, Json]) -> dict[str, Json]:
        wanted = self._chosen(merged).get("user")
        for entry in merged.get("users") or ():
            if entry["name"] == wanted and isinstance(entry.get("user"), dict):
                found: dict[str, Json] = entry["user"]
                return found
        return {}

    def _cluster(self, merged: Mapping[str, Json]) -> dict[str, Json]:
        wanted = self._chosen(merged).get("cluster")
        clusters = {entry["name"]: entry for entry in merged.get("clusters") or ()}
        return dict((clusters.get(wanted) or {}).get("cluster") or {})


class PodAccess:
    """The service account of the pod that Slipway runs in."""

    inside = True
    workload_pool = None
    words = "the pod's own account"
    look = "Does a NetworkPolicy keep this pod from the API server?"
    log_in = "Does the pod's ServiceAccount still exist, and is its token mounted?"

    def __init__(self, *, target: str) -> None:
        """`target` is only for messages."""
        self._target = target

    def configure(self, configuration: Any) -> None:  # noqa: ANN401 (the client has no types)
        """Read what the kubelet mounted; the client reads the token again as it is renewed."""
        try:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
        except ConfigException as error:
            raise ConfigError(
                f"Target {self._target} cannot be connected.",
                why=one_line(error),
                fix='context = "in-cluster" is for pods: name a context of the kubeconfig instead.',
            ) from error


# ── Exec plugins ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Granted:
    """What a plugin printed: a token, or a certificate with its key, or both."""

    token: Token | None
    certificate: str = ""
    key: str = ""


class _Plugin:
    """A program that prints an ExecCredential (client-go's protocol v1 and v1beta1)."""

    def __init__(self, target: str, said: Mapping[str, Json], cluster: Mapping[str, Json]) -> None:
        self._target = target
        self._said = said
        self._cluster = cluster
        self._command = str(said.get("command", ""))
        self._name = one_line(Path(self._command).name)

    def token(self) -> Token:
        """A new token. Denied."""
        granted = self.run().token
        if granted is None:
            raise self._failed("It printed no token this time.")
        return granted

    def run(self) -> _Granted:
        """Run it once, bounded in time and output. Denied says which way it failed."""
        if self._said.get("interactiveMode") == "Always":
            raise self._failed("It wants a terminal, which this process does not lend it.")
        line = [self._command, *map(str, self._said.get("args") or ())]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            # Files and not pipes: a child that the plugin leaves behind keeps no reader waiting.
            try:
                process = subprocess.Popen(
                    line,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=self._environment(),
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise self._missing() from error
            except OSError as error:
                raise self._failed(one_line(error)) from error
            try:
                code = process.wait(PLUGIN_TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                said = _complaint(_start(err))
                raise self._failed(
                    f"It did not end within {PLUGIN_TIMEOUT_S:.0f} s{said and f': {said}'}."
                ) from error
            printed, complained = _start(out), _complaint(_start(err))
        if code != 0:
            raise self._failed(f"It ended with exit code {code}{complained and f': {complained}'}.")
        return self._granted(printed)

    def _environment(self) -> dict[str, str]:
        spec: dict[str, Json] = {"interactive": False}
        if self._said.get("provideClusterInfo"):
            known = {key: value for key, value in self._cluster.items() if key != "extensions"}
            extensions = self._cluster.get("extensions") or ()
            own = [e for e in extensions if e.get("name") == "client.authentication.k8s.io/exec"]
            spec["cluster"] = {**known, "config": next((e.get("extension") for e in own), None)}
        told = {
            "apiVersion": self._said.get("apiVersion"),
            "kind": "ExecCredential",
            "spec": spec,
        }
        given = {str(e.get("name")): str(e.get("value")) for e in self._said.get("env") or ()}
        return {**os.environ, **given, "KUBERNETES_EXEC_INFO": json.dumps(told)}

    def _granted(self, printed: bytes) -> _Granted:
        try:
            said = json.loads(printed)
            status = said["status"]
            kind, version = said["kind"], said["apiVersion"]
            token = status.get("token")
            certificate = str(status.get("clientCertificateData") or "")
            key = str(status.get("clientKeyData") or "")
            life_s = _life_s(status.get("expirationTimestamp"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # What it printed may be half a credential: it is not repeated.
            raise self._failed("It printed something that is no ExecCredential.") from error
        if kind != "ExecCredential" or version != self._said.get("apiVersion"):
            raise self._failed(
                f"It printed {one_line(kind, 40)} of {one_line(version, 60)};"
                f" {one_line(self._said.get('apiVersion'), 60)} was asked for."
            )
        if not token and not (certificate and key):
            raise self._failed("It gave neither a token nor a certificate with its key.")
        return _Granted(Token(str(token), life_s) if token else None, certificate, key)

    def _missing(self) -> Denied:
        hint = self._said.get("installHint") or ""
        return Denied(
            f"Target {self._target} has no credentials: its plugin {self._name} is not there.",
            why="No such program on the PATH of this process."
            if shutil.which(self._command) is None
            else "Its interpreter is not there.",
            fix=_GKE_PLUGIN_FIX
            if self._name == _GKE_PLUGIN
            else one_line(hint) or f"Install {self._name} on the PATH of this process.",
        )

    def _failed(self, why: str) -> Denied:
        return Denied(
            f"Target {self._target} has no credentials: its plugin {self._name} failed.",
            why=why,
            fix=f"Log in again (gcloud auth login), and run {self._name} yourself to see more. A"
            ' target of kind = "gke" needs no plugin.'
            if self._name == _GKE_PLUGIN
            else f"Run {self._name} yourself to see why, or log in again with its tool.",
        )


def _start(file: Any) -> bytes:  # noqa: ANN401 (an open temporary file)
    file.seek(0)
    found: bytes = file.read(_PLUGIN_OUTPUT_BYTES)
    return found


def _complaint(text: bytes) -> str:
    """The line of a plugin's standard error that says most: the first error, else the last line."""
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return one_line([*errors, *lines[-1:]][0], 400).rstrip(".") if lines else ""


def _life_s(ends: Json) -> float | None:
    """Seconds until an RFC 3339 moment; None when none is given. ValueError."""
    if not ends:
        return None
    moment = datetime.fromisoformat(str(ends))
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
