"""What an image is made of: names, requirements and the Dockerfile. Pure: nothing is built here.

The same version on the same base always gives the same text, and the tag carries the digest of all
that goes in, so that a tag names one content for ever. Layers stand in the order in which they
change: base, libraries, server, and the version's files last; a second version with the same
requirements is a copy of files.

Read against MLServer 1.7.1, MLflow 3.17 and the OCI rules for repositories and tags.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from packaging.utils import canonicalize_name

from services.domain import VersionDetails, VersionRef, proposed_service_name
from services.errors import one_line
from services.requirements import plain, server_python

FORMAT = "1"
"""Part of every digest: raise it when images are made differently, and all are made anew."""

SERVERS = ("mlserver==1.7.1", "mlserver-mlflow==1.7.1")
"""The model server, in the versions that Slipway is tested with."""

PORT = 8080
MODEL_FOLDER = "/mnt/models"
"""Where KServe puts a model, too: image and bucket look the same from inside."""

_DIGEST_SHOWN = 12


class Server(StrEnum):
    """What answers inside an image."""

    MLSERVER = "mlserver"
    """V2 and /invocations."""
    MLFLOW = "mlflow"
    """MLflow's own scoring server: /invocations alone."""


@dataclass(frozen=True, slots=True)
class Libraries:
    """What is installed: the part of an image that versions share."""

    base: str
    python: str
    """Major and minor: 3.11."""
    requirements: tuple[str, ...]
    """One requirement each, sorted, the server's included."""
    server: Server = Server.MLSERVER

    @property
    def digest(self) -> str:
        """sha256 over the text that installs them, hex."""
        return _digest(dockerfile(self), *self.requirements)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image to be built: a Dockerfile and what lies beside it."""

    image: str
    """repository:tag."""
    dockerfile: str
    requirements: str
    """The text of requirements.txt."""
    digest: str
    """sha256 over everything that goes in, hex."""
    libraries: Libraries


def libraries_for(
    details: VersionDetails, *, base: str = "", server: Server = Server.MLSERVER
) -> Libraries:
    """The libraries that a version's files ask for, on `base`. NotDeployable.

    An empty base is the official image of the model's Python; `{python}` in it is filled in.
    """
    python = server_python(details.python_version)
    wanted = plain(details.requirements)
    names = {canonicalize_name(requirement.name) for requirement in wanted}
    lines = {str(requirement) for requirement in wanted}
    formats = {settings.get("serialization_format") for settings in details.flavors.values()}
    if "skops" in formats and "skops" not in names:
        # MLflow logs scikit-learn models as skops and adds nothing to a list that the user gave.
        lines.add("skops")
    if "mlflow" not in names and details.mlflow_version:
        lines.add(f"mlflow=={details.mlflow_version}")
    if server is Server.MLSERVER:
        lines |= {line for line in SERVERS if line.partition("==")[0] not in names}
    chosen = (base or "python:{python}-slim").replace("{python}", python)
    return Libraries(chosen, python, tuple(sorted(lines, key=str.lower)), server)


def model_recipe(
    ref: VersionRef, libraries: Libraries, *, files_digest: str, prefix: str
) -> Recipe:
    """The image of one version; `prefix` is what its repository's name begins with."""
    parted = dockerfile(libraries) + _files(ref, "")
    digest = _digest(parted, *libraries.requirements, files_digest)
    image = f"{prefix}/{component(ref.model)}:{ref.number}-{digest[:_DIGEST_SHOWN]}"
    text = dockerfile(libraries) + _files(ref, digest)
    return Recipe(image, text, _text(libraries.requirements), digest, libraries)


def environment_recipe(libraries: Libraries, *, prefix: str) -> Recipe:
    """The image of an environment: everything but the files, which come from a bucket."""
    tag = f"py{libraries.python}-{libraries.digest[:_DIGEST_SHOWN]}"
    return Recipe(
        f"{prefix}/environment:{tag}",
        dockerfile(libraries) + _labels({"dev.slipway.digest": libraries.digest}),
        _text(libraries.requirements),
        libraries.digest,
        libraries,
    )


def dockerfile(libraries: Libraries) -> str:
    """The layers that versions with the same requirements share."""
    environment = {
        "HOME": "/tmp",  # noqa: S108 — inside the container, whose user has no other home
        "PYTHONUNBUFFERED": "1",
    }
    if libraries.server is Server.MLSERVER:
        environment |= {
            "MLSERVER_HTTP_PORT": str(PORT),
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_mlflow.MLflowRuntime",
            "MLSERVER_MODEL_URI": MODEL_FOLDER,
        }
    settings = " \\\n    ".join(f"{key}={value}" for key, value in environment.items())
    return f"""\
# Made by Slipway. What changes least stands first.
FROM {libraries.base}

# The libraries: installed again only when a requirement changes. A base that has them already
# downloads nothing.
USER root
WORKDIR /opt/slipway
COPY requirements.txt ./
RUN python -m pip install --no-cache-dir --progress-bar off --requirement requirements.txt

# The server, on port {PORT}, as a user without rights.
ENV {settings}
WORKDIR /tmp
USER 1000
EXPOSE {PORT}
ENTRYPOINT []
CMD {json.dumps(_command(libraries.server))}
"""


def _command(server: Server) -> list[str]:
    if server is Server.MLSERVER:
        return ["mlserver", "start", MODEL_FOLDER]
    listen = ["--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104 — inside the container
    return [
        *("mlflow", "models", "serve", "--model-uri", MODEL_FOLDER),
        *("--env-manager", "local", *listen),
    ]


def _files(ref: VersionRef, digest: str) -> str:
    labels = {
        "org.opencontainers.image.title": str(ref),
        "dev.slipway.model": ref.model,
        "dev.slipway.version": str(ref.number),
        "dev.slipway.digest": digest,
    }
    return f"""
# The version: its files last.
ENV MLSERVER_MODEL_NAME={proposed_service_name(ref.model)}
COPY model/ {MODEL_FOLDER}/
{_labels(labels)}"""


def _labels(labels: Mapping[str, str]) -> str:
    return "LABEL " + " \\\n      ".join(f"{k}={_quoted(v)}" for k, v in labels.items()) + "\n"


def _quoted(text: str) -> str:
    """Foreign text as one word of a Dockerfile: a model's name may hold quotes, dollars, lines."""
    escaped = re.sub(r'([\\"$])', r"\\\1", one_line(text, 128))
    return f'"{escaped}"'


def component(model: str) -> str:
    """A registered model's name as one part of a repository's; names that change carry a hash."""
    # OCI distribution spec: [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*
    kept = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:80].rstrip("-")
    if kept == model:
        return kept
    return f"{kept or 'model'}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()
