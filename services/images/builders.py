"""Who builds an image, and how it comes to where the pods find it: one class per way.

A builder answers two questions, so that nothing is done twice: is the image built (and what is its
own digest), and, where images go to a registry, is it there. Which one a target has is decided by
`chosen`, from the settings and the context's name, and is shown in every plan.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.errors import ConfigError, SlipwayError, Unreachable, one_line
from services.images import programs
from services.ports import Report

LOCAL_PREFIX = "dev.local/slipway"
KIND_PREFIX = "kind.local/slipway"
"""Knative looks no tag of these hosts up at a registry (config-deployment,
registriesSkippingTagResolving): an image that is only on the node runs in both modes."""


class Builder(Protocol):
    """Builds images for one target and brings them to it. Errors: those of `programs`."""

    @property
    def shared(self) -> bool:
        """True when the image lies in a registry, whoever built it."""

    @property
    def words(self) -> str:
        """Who builds and how it arrives, for the plan: "docker, then kind load …"."""

    def digest(self, image: str) -> str | None:
        """The built image's own digest, sha256:…; None when it is not built here."""

    def pushed(self, image: str) -> bool:
        """Whether the registry has it; False where images go to none."""

    def build(self, image: str, context: Path, report: Report) -> None:
        """Build the folder's Dockerfile as `image`."""

    def deliver(self, image: str, report: Report) -> None:
        """Bring a built image to where pods find it. Idempotent."""


@dataclass(frozen=True)
class EngineBuilder:
    """docker or podman on this machine, and one way from there to the cluster."""

    engine: str
    delivery: Delivery

    @property
    def shared(self) -> bool:
        """Whether images go to a registry."""
        return isinstance(self.delivery, Push)

    @property
    def words(self) -> str:
        """Who builds, and how it arrives."""
        return f"built by {self.engine}, {self.delivery.words}"

    def digest(self, image: str) -> str | None:
        """The image's own digest; None when this machine does not have it."""
        command = [self.engine, "image", "inspect", "--format", "{{json .}}", image]
        code, said = programs.asked(command, doing=f"look for the image {image}")
        if code == 0:
            return _digest_of(said)
        _raise_unless_absent(said, code, image, self.engine)
        return None

    def pushed(self, image: str) -> bool:
        """Whether the registry has it."""
        if not self.shared:
            return False
        command = [self.engine, "manifest", "inspect", image]
        code, said = programs.asked(command, doing=f"look for {image} in its registry")
        if code:
            _raise_unless_absent(said, code, image, self.engine)
        return code == 0

    def build(self, image: str, context: Path, report: Report) -> None:
        """Build the folder's Dockerfile as `image`."""
        command = [self.engine, "build", "--tag", image, str(context)]
        programs.run(command, doing=f"build the image {image}", report=report)

    def deliver(self, image: str, report: Report) -> None:
        """Bring a built image to where pods find it."""
        self.delivery.deliver(self.engine, image, report)


@dataclass(frozen=True)
class MinikubeBuilder:
    """minikube builds inside its own node: nothing has to be brought there."""

    profile: str

    @property
    def shared(self) -> bool:
        """Its images are on its node and nowhere else."""
        return False

    @property
    def words(self) -> str:
        """Who builds, and how it arrives."""
        return f"built by `minikube image build` inside the node of {self.profile}"

    def digest(self, image: str) -> str | None:
        """The image's id on the node."""
        command = ["minikube", "--profile", self.profile, "image", "ls", "--format", "json"]
        code, said = programs.asked(command, doing=f"look for the image {image}")
        if code:
            raise programs.failure(
                said.splitlines(), code, doing=f"look for the image {image}", program="minikube"
            )
        start = said.find("[")
        try:
            listed = json.loads(said[start:]) if start >= 0 else []
        except json.JSONDecodeError:
            listed = []
        for entry in listed or ():
            if image in (entry.get("repoTags") or ()):
                found = str(entry.get("id", "")).removeprefix("sha256:")
                return f"sha256:{found}"
        return None

    def pushed(self, image: str) -> bool:  # noqa: ARG002 (every builder is asked so)
        """Images go to no registry."""
        return False

    def build(self, image: str, context: Path, report: Report) -> None:
        """Build on the node. minikube has ended with 0 after failed builds: the image decides."""
        doing = f"build the image {image}"
        seen: list[str] = []

        def noted(line: str, ratio: float | None = None) -> None:
            seen.append(line)
            report(line, ratio)

        command = ["minikube", "--profile", self.profile, "image", "build", "--tag", image]
        programs.run([*command, str(context)], doing=doing, report=noted)
        if self.digest(image) is None:
            raise programs.failure(seen[-100:], 1, doing=doing, program="minikube")

    def deliver(self, image: str, report: Report) -> None:
        """It is on the node already."""


class Delivery(Protocol):
    """One way from a builder's store to where pods find an image."""

    @property
    def words(self) -> str:
        """For the plan."""

    def deliver(self, engine: str, image: str, report: Report) -> None:
        """Bring it there."""


@dataclass(frozen=True)
class Push:
    """To a registry from which the cluster pulls."""

    repository: str

    @property
    def words(self) -> str:
        """For the plan."""
        return f"pushed to {self.repository}"

    def deliver(self, engine: str, image: str, report: Report) -> None:
        """Push it: layers that the registry has are not sent again."""
        programs.run([engine, "push", image], doing=f"push {image}", report=report)


@dataclass(frozen=True)
class KindLoad:
    """Onto the nodes of a kind cluster."""

    cluster: str

    @property
    def words(self) -> str:
        """For the plan."""
        return f"then brought onto the nodes of {self.cluster} by kind"

    def deliver(self, engine: str, image: str, report: Report) -> None:
        """Load it onto every node; podman's store kind does not know, so by way of an archive."""
        doing = f"bring {image} onto the nodes of kind's cluster {self.cluster}"
        load = ["kind", "load"]
        if engine == "docker":
            command = [*load, "docker-image", image, "--name", self.cluster]
            programs.run(command, doing=doing, report=report)
            return
        with _archive(engine, image, report) as archive:
            command = [*load, "image-archive", str(archive), "--name", self.cluster]
            programs.run(command, doing=doing, report=report)


@dataclass(frozen=True)
class MinikubeLoad:
    """Onto minikube's node, from this machine's engine."""

    profile: str

    @property
    def words(self) -> str:
        """For the plan."""
        return f"then brought onto the node of {self.profile} by `minikube image load`"

    def deliver(self, engine: str, image: str, report: Report) -> None:
        """Load it, by way of an archive: it works for every engine."""
        with _archive(engine, image, report) as archive:
            programs.run(
                ["minikube", "--profile", self.profile, "image", "load", str(archive)],
                doing=f"bring {image} onto the node of {self.profile}",
                report=report,
            )


@dataclass(frozen=True)
class LoadCommand:
    """By the command of the settings, with {archive} and {image} filled in. Never a shell."""

    text: str

    @property
    def words(self) -> str:
        """For the plan."""
        return f"then brought to the cluster by `{one_line(self.text, 80)}`"

    def deliver(self, engine: str, image: str, report: Report) -> None:
        """Save the image if the command wants an archive, and run it."""
        parts = _split(self.text)
        doing = f"bring {image} to the cluster"
        if not any("{archive}" in part for part in parts):
            programs.run(_filled(parts, image, ""), doing=doing, report=report)
            return
        with _archive(engine, image, report) as archive:
            programs.run(_filled(parts, image, str(archive)), doing=doing, report=report)


@contextmanager
def _archive(engine: str, image: str, report: Report) -> Iterator[Path]:
    """The image as a file, for as long as somebody reads it."""
    with tempfile.TemporaryDirectory(prefix="slipway-image-") as folder:
        archive = Path(folder, "image.tar")
        report(f"saving {image}", None)
        programs.run(
            [engine, "save", "--output", str(archive), image],
            doing=f"save the image {image}",
            report=report,
        )
        report(f"loading {image}, {archive.stat().st_size // 1_000_000} MB", None)
        yield archive


def prefix(*, flavour: str, builder: str = "", repository: str = "") -> str:
    """What the names of a target's images begin with."""
    if repository:
        return repository.rstrip("/")
    return KIND_PREFIX if "kind" in {builder, flavour} else LOCAL_PREFIX


def chosen(
    *,
    target: str,
    context: str,
    flavour: str,
    builder: str = "",
    repository: str = "",
    load_command: str = "",
) -> Builder:
    """The builder of a target. ConfigError when there is none, or no way to the cluster.

    `flavour` is minikube, kind, gke or "", as the context's name or credentials tell.
    """
    if builder not in {"", "docker", "podman", "minikube", "kind"}:
        raise ConfigError(
            f"There is no builder {one_line(builder, 40)!r} for the target {target}.",
            fix="Set targets.NAME.image.builder to docker, podman, minikube or kind.",
        )
    if builder == "minikube" or (
        flavour == "minikube" and not (builder or repository or load_command)
    ):
        return MinikubeBuilder(context or "minikube")
    engine = builder if builder in {"docker", "podman"} else _engine_here(target)
    if load_command:
        return EngineBuilder(engine, LoadCommand(load_command))
    if repository:
        return EngineBuilder(engine, Push(repository.rstrip("/")))
    if builder == "kind" or flavour == "kind":
        return EngineBuilder(engine, KindLoad(context.removeprefix("kind-")))
    if flavour == "minikube":
        return EngineBuilder(engine, MinikubeLoad(context))
    raise ConfigError(
        f"There is no way for images to reach the target {target}.",
        why="GKE pulls from a registry, and none is set."
        if flavour == "gke"
        else f"The context {one_line(context, 60)} is neither minikube nor kind, and no registry"
        " is set.",
        fix=f"Set repository (or load_command) under [targets.{target}.image] in slipway.toml.",
    )


def _engine_here(target: str) -> str:
    found = next((name for name in ("docker", "podman") if shutil.which(name)), None)
    if found is None:
        raise ConfigError(
            f"Nothing here can build images for the target {target}.",
            why="Neither docker nor podman is on the PATH of Slipway's process.",
            fix="Install one of them, or deploy with `--package gcs`.",
        )
    return found


def _split(text: str) -> list[str]:
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise ConfigError(
            f"load_command cannot be read: {one_line(error)}.", fix="Close its quotes."
        ) from error
    if not parts:
        raise ConfigError("load_command is empty.", fix="Name a program, or leave it out.")
    return parts


def _filled(parts: list[str], image: str, archive: str) -> list[str]:
    # replace, not format: the command may hold braces of its own
    return [part.replace("{image}", image).replace("{archive}", archive) for part in parts]


def _digest_of(said: str) -> str:
    try:
        found = json.loads(said[said.index("{") :])
    except ValueError as error:
        raise Unreachable(
            "The builder's answer about an image cannot be read.", why=one_line(said)
        ) from error
    text = str(found.get("Id", "")).removeprefix("sha256:")
    return f"sha256:{text}"


_ABSENT = ("no such image", "failed to find image", "image not known", "manifest unknown",
           "no such manifest", "not found", "does not exist")  # fmt: skip


def _raise_unless_absent(said: str, code: int, image: str, engine: str) -> None:
    if any(words in said.lower() for words in _ABSENT):
        return
    error: SlipwayError = programs.failure(
        said.splitlines(), code, doing=f"look for the image {image}", program=engine
    )
    raise error
