"""slipway.toml and the environment → Settings. The only reader of os.environ.

A setting is looked for in this order: `SLIPWAY_…` in the environment, the configuration file, the
default. The file is `--config FILE`, else `slipway.toml` in the working folder, else
`~/.config/slipway/slipway.toml`; none is fine. Unknown keys are an error that names the nearest
known one, because a misspelt `protected` must not pass in silence.
"""

from __future__ import annotations

import getpass
import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.domain import Json, Mode, PackageKind, TargetKind
from services.errors import ConfigError, NotFound, one_line

PREFIX = "SLIPWAY_"
CONFIG = "SLIPWAY_CONFIG"
"""The configuration file's path, as `--config`: how `slipway ui` hands it to the dashboard."""
_NEEDS_CONTEXT = "needs context"
TEST_PREFIX = "SLIPWAY_TEST_"
"""What the test suite is told about its machine: no setting."""
LOCAL = "local"
CONTEXT: Final = "context:"
"""Before the name of a kubeconfig's context: a target that is not configured."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RegistrySettings(_Section):
    """Where the registered models are."""

    tracking_uri: str = ""
    """MLflow tracking URI (http, sqlite, postgresql). Else MLFLOW_TRACKING_URI, else the embedded
    registry under the state folder."""
    timeout_s: float = Field(default=4.0, gt=0, le=60)
    """Seconds until a call to the registry counts as unanswered."""
    allowed_sources: tuple[str, ...] = ()
    """Further places (folders or URI prefixes) from which versions may be read, besides those that
    the registry itself hands out."""


class StoreSettings(_Section):
    """Audit log and load-test runs."""

    url: str = ""
    """SQLAlchemy URL; else SQLite under the state folder. PostgreSQL for a team."""


class GoogleSettings(_Section):
    """How Google's own interfaces are reached; credentials are Application Default Credentials."""

    container_api: str = ""
    """Address of the Container API, https://…, where it is not Google's own: Private Service
    Connect."""


class ImageSettings(_Section):
    """How images are built for a target."""

    builder: str = ""
    """minikube, docker, podman or kind; empty: found."""
    base: str = ""
    """Base image: any with Python and pip, or with MLServer already in it (then nothing is
    downloaded); `{python}` is filled in; empty: python:3.x-slim of the model's Python."""
    repository: str = ""
    """Registry to push to, where the cluster pulls from."""
    load_command: str = ""
    """Instead of the builder's own way onto the node; {archive} and {image} are filled in."""
    server: Literal["mlserver", "mlflow"] = "mlserver"
    """What answers in an image: mlserver (V2), or mlflow's own scoring server (/invocations)."""


class TargetSettings(_Section):
    """One place to deploy to."""

    kind: TargetKind
    """local, kubernetes or gke."""
    context: str = ""
    """kubernetes: a context of the kubeconfig, or "in-cluster" inside a pod (there, without a
    kubeconfig, it may be left out)."""
    kubeconfig: str = ""
    """kubernetes: path of the kubeconfig; empty: KUBECONFIG, else ~/.kube/config."""
    namespace: str = "default"
    """Namespace of the services."""
    mode: Mode | None = None
    """Default deployment mode, Standard or Knative; empty: the cluster's own."""
    package: PackageKind | None = None
    """Default packaging, gcs or image; empty: gcs where a bucket is set, else image."""
    protected: bool = False
    """True: writes want the service's name typed (`--confirm NAME`; `--yes` does not skip it)."""
    bucket: str = ""
    """gs://bucket/root for published versions."""
    service_account: str = ""
    """ServiceAccount of the pods."""
    runtime: str = ""
    """ServingRuntime to use instead of the one that the plan chooses."""
    ingress: str = ""
    """Address of the ingress, http://host:port; empty: found."""
    project: str = ""
    """gke: Google Cloud project."""
    location: str = ""
    """gke: region or zone."""
    cluster: str = ""
    """gke: name of the cluster."""
    image: ImageSettings = ImageSettings()
    """How images are built for this target."""

    @model_validator(mode="after")
    def _complete(self) -> TargetSettings:
        needed = {
            TargetKind.KUBERNETES: ("context",),
            TargetKind.GKE: ("project", "location", "cluster"),
            TargetKind.LOCAL: (),
        }[self.kind]
        missing = [name for name in needed if not getattr(self, name)]
        if missing:
            message = f"a target of kind {self.kind} needs {' and '.join(missing)}"
            raise ValueError(message)
        return self


class Settings(_Section):
    """Everything that can be set."""

    default_target: str = ""
    """Target that is used when none is named; empty: local."""
    state_dir: Path = Path(".slipway")
    """Folder for the embedded registry, local services, the store and logs."""
    registry: RegistrySettings = RegistrySettings()
    """Where the registered models are."""
    store: StoreSettings = StoreSettings()
    """Audit log and load-test runs."""
    google: GoogleSettings = GoogleSettings()
    """How Google's own interfaces are reached."""
    targets: dict[str, TargetSettings] = Field(default_factory=dict)
    """Named places to deploy to; `local` is always there."""

    @property
    def state(self) -> Path:
        """The state folder, absolute."""
        return self.state_dir.expanduser().absolute()

    @property
    def embedded(self) -> bool:
        """True when the registry is the embedded one under the state folder."""
        return not self.registry.tracking_uri

    @property
    def tracking_uri(self) -> str:
        """The registry's MLflow tracking URI."""
        return self.registry.tracking_uri or f"sqlite:///{self.state / 'mlflow.db'}"

    @property
    def artifact_root(self) -> Path:
        """Where the embedded registry keeps artifacts."""
        return self.state / "artifacts"

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of audit log and runs."""
        return self.store.url or f"sqlite:///{self.state / 'slipway.db'}"

    def target(self, name: str | None = None) -> tuple[str, TargetSettings]:
        """The named target, or the default one. NotFound lists those that there are."""
        wanted = name or self.default_target or LOCAL
        found = self.all_targets.get(wanted) or _of_context(wanted)
        if found is None:
            raise NotFound(
                f"There is no target {one_line(wanted)!r}.",
                why=f"Configured: {', '.join(sorted(self.all_targets))}.",
                fix="Choose one of these, add it to slipway.toml, or take a context of the"
                f" kubeconfig as it is: `{CONTEXT}NAME`.",
            )
        return wanted, found

    @property
    def all_targets(self) -> Mapping[str, TargetSettings]:
        """Configured targets and the embedded `local`."""
        return {LOCAL: TargetSettings(kind=TargetKind.LOCAL), **self.targets}


def _of_context(target: str) -> TargetSettings | None:
    """`context:minikube` is a target without any settings; protected, as nobody has set it up."""
    context = target.removeprefix(CONTEXT)
    if context in {"", target}:
        return None
    return TargetSettings(kind=TargetKind.KUBERNETES, context=context, protected=True)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the environment says of who runs Slipway, and where."""

    actor: str
    """The OS user, or $GITHUB_ACTOR in a workflow."""
    origin: str
    """"terminal", or the address of the CI run."""
    in_github: bool = False
    """True inside GitHub Actions."""
    summary_file: Path | None = None
    """$GITHUB_STEP_SUMMARY."""
    output_file: Path | None = None
    """$GITHUB_OUTPUT."""


def find_file(config: str | Path | None = None) -> Path | None:
    """The configuration file in force, or None. ConfigError when a named one is not there."""
    if config is not None:
        path = Path(config).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"The configuration file {one_line(path)} is not there.",
                fix="Check --config, or start from slipway.toml.example.",
            )
        return path
    candidates = (Path("slipway.toml"), Path("~/.config/slipway/slipway.toml").expanduser())
    return next((path for path in candidates if path.is_file()), None)


def load(config: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read file and environment. ConfigError names file, key and the nearest known key."""
    env = os.environ if environ is None else environ
    path = find_file(config or env.get(CONFIG) or None)
    tree: dict[str, Any] = _read(path) if path else {}
    for name, value in sorted(env.items()):
        if name == CONFIG:
            continue
        if name.startswith(PREFIX) and not name.startswith(TEST_PREFIX):
            _place(tree, name.removeprefix(PREFIX).lower().split("__"), value)
    registry = tree.setdefault("registry", {})
    if isinstance(registry, dict) and not registry.get("tracking_uri"):
        registry["tracking_uri"] = env.get("MLFLOW_TRACKING_URI", "")
    _in_a_pod(tree, env)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise _explained(error, path, env) from error
    settings.target()  # a default target that does not exist is told at once
    return settings


def surroundings(environ: Mapping[str, str] | None = None) -> Surroundings:
    """Who acts, from where."""
    env = os.environ if environ is None else environ
    in_github = env.get("GITHUB_ACTIONS") == "true"
    run = (
        "/".join(env.get(key, "") for key in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"))
        + f"/actions/runs/{env.get('GITHUB_RUN_ID', '')}"
    )
    return Surroundings(
        actor=one_line(env.get("GITHUB_ACTOR", "") if in_github else _os_user(env), 128),
        origin=one_line(run) if in_github else "terminal",
        in_github=in_github,
        summary_file=_path(env.get("GITHUB_STEP_SUMMARY")) if in_github else None,
        output_file=_path(env.get("GITHUB_OUTPUT")) if in_github else None,
    )


def environment_for(config: str | Path | None, target: str | None) -> dict[str, str]:
    """This process's environment for one that takes its place, with what the options said."""
    handed_on = dict(os.environ)
    if config is not None:
        handed_on[CONFIG] = str(Path(config).expanduser().absolute())
    if target is not None:
        handed_on[f"{PREFIX}DEFAULT_TARGET"] = target
    return handed_on


def _os_user(env: Mapping[str, str]) -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return env.get("USER") or f"uid-{os.getuid()}"


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{one_line(path)} is not TOML.", why=f"{one_line(error)}.", fix="Mend that line."
        ) from error
    except OSError as error:
        raise ConfigError(f"{one_line(path)} cannot be read.", why=f"{one_line(error)}.") from error


def _place(tree: dict[str, Any], parts: list[str], value: Json) -> None:
    """Put an environment variable into the tree; a target's name matches whatever its case."""
    *parents, leaf = parts
    node = tree
    for part in parents:
        known = next((key for key in node if _same(key, part)), part)
        child = node.setdefault(known, {})
        if not isinstance(child, dict):
            return
        node = child
    # An environment variable has no lists: several values are parted by commas.
    node[leaf] = tuple(filter(None, value.split(","))) if leaf == "allowed_sources" else value


def _same(key: str, part: str) -> bool:
    return key.lower().replace("-", "_") == part


def _kubeconfigs(env: Mapping[str, str]) -> list[Path]:
    """The kubeconfig's files that there are."""
    told = env.get("KUBECONFIG") or "~/.kube/config"
    paths = [Path(part).expanduser() for part in told.split(os.pathsep) if part]
    return [path for path in paths if path.is_file()]


def _in_a_pod(tree: dict[str, Any], env: Mapping[str, str]) -> None:
    """In a pod without a kubeconfig, a target that names no context is the pod's own cluster."""
    targets = tree.get("targets")
    if "KUBERNETES_SERVICE_HOST" not in env or _kubeconfigs(env) or not isinstance(targets, dict):
        return
    for target in targets.values():
        named = isinstance(target, dict) and (target.get("context") or target.get("kubeconfig"))
        if isinstance(target, dict) and target.get("kind") == TargetKind.KUBERNETES and not named:
            target["context"] = "in-cluster"


def _no_context(env: Mapping[str, str]) -> str:
    """What a target without a context could name."""
    import yaml

    names: list[str] = []
    for path in _kubeconfigs(env):
        # What is no kubeconfig is told when a target wants it.
        with suppress(OSError, ValueError, yaml.YAMLError, AttributeError, TypeError, KeyError):
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
            names += [one_line(entry["name"]) for entry in found.get("contexts") or ()]
    there = f"one of {', '.join(sorted(set(names)))}" if names else "of which there is none yet"
    return (
        f'Set context: a context of the kubeconfig ({there}), or "in-cluster" for the pod that'
        " Slipway runs in."
    )


def _explained(error: ValidationError, path: Path | None, env: Mapping[str, str]) -> ConfigError:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    where = f"{one_line(path)}" if path else "the environment (SLIPWAY_…)"
    if first["type"] == "extra_forbidden":
        import difflib

        wrong = str(first["loc"][-1])
        nearest = difflib.get_close_matches(wrong, _known_keys(first["loc"]), n=1, cutoff=0.0)
        return ConfigError(
            f"There is no setting {one_line(place)!r}.",
            why=f"It stands in {where}.",
            fix=f"The nearest known one is {nearest[0]!r}." if nearest else "Remove it.",
        )
    reason = one_line(first["msg"]).removeprefix("Value error, ")
    return ConfigError(
        f"The setting {one_line(place)!r} does not fit.",
        why=f"{reason}. It stands in {where}.",
        fix=_no_context(env)
        if reason.endswith(_NEEDS_CONTEXT)
        else "See docs/configuration.md for what it takes.",
    )


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Settings
    parents = [str(part) for part in loc[:-1]]
    while parents:
        head = parents.pop(0)
        if section is Settings and head == "targets":
            section = TargetSettings
            parents = parents[1:]
        elif head in section.model_fields:
            annotation = section.model_fields[head].annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                section = annotation
    return list(section.model_fields)
