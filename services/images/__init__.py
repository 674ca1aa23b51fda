"""Packaging `image`: a version and its libraries in an image that answers by itself.

`ImagePackager` puts the version's files in; `EnvironmentPackager` makes an image of the libraries
alone, one for all versions with the same requirements, and offers it to KServe as a ServingRuntime,
while the files come from a bucket. The parts: `recipe` (the Dockerfile; pure), `builders` (who
builds, how it arrives), `programs` (running them, their failures in words).

Both implement ports.Packager. Knows no MLflow: the registry hands it files and requirements.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from services import checks
from services.domain import (
    Finding,
    ModelVersion,
    Package,
    PackageKind,
    Registration,
    Verdict,
)
from services.domain import Protocol as InferenceProtocol
from services.errors import ConfigError, NotDeployable, SlipwayError, one_line
from services.images.builders import LOCAL_PREFIX, Builder, chosen, prefix
from services.images.recipe import (
    Libraries,
    Recipe,
    Server,
    environment_recipe,
    libraries_for,
    model_recipe,
)
from services.ports import Packager, Registry, Report, no_report
from services.staging import Manifest, Staging

__all__ = [
    "Builder",
    "EnvironmentPackager",
    "ImageOptions",
    "ImagePackager",
    "Recipe",
    "Server",
    "chosen",
    "prefix",
]

NodeImages = Callable[[], frozenset[str] | None]
"""Names of the images that the cluster's nodes have; None when the list may not be complete."""


BROUGHT_FOR_S = 120.0
"""For so long an image that was just brought counts as there: kubelets tell theirs a minute later.
Longer, and one that a full node dropped would be missed."""


def _not_known() -> frozenset[str] | None:
    return None


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What a target's settings say of its images."""

    base: str = ""
    """Base image; "" = the official one of the model's Python. `{python}` is filled in."""
    server: Server = Server.MLSERVER
    prefix: str = LOCAL_PREFIX
    """What the images' names begin with."""


class _Maker:
    """Builds a recipe's image, or finds it built; brings it to the cluster, or finds it there."""

    def __init__(self, builder: Callable[[], Builder], work: Path, on_nodes: NodeImages) -> None:
        self._make_builder = builder
        self._work = work
        self._on_nodes = on_nodes
        self._brought: dict[str, tuple[str, float]] = {}
        """Image → its digest, and when it was brought, on the monotonic clock."""

    @cached_property
    def builder(self) -> Builder:
        return self._make_builder()

    def state(self, image: str) -> str:
        """How far an image is, in words for a plan."""
        if self._arrived(image):
            return "it is there already"
        built = self.builder.digest(image) is not None
        return "it is built already" if built else "it is built now"

    def make(
        self, recipe: Recipe, report: Report, *, manifest: Manifest | None, files: Path | None
    ) -> str:
        """The image's own digest, once it is where pods find it."""
        image, builder = recipe.image, self.builder
        digest = builder.digest(image)
        if self._arrived(image) or self._just_brought(image, digest):
            report(f"{image} is where the cluster finds it already", 1.0)
            return digest or ""
        if digest is None:
            report(f"building {image}", None)
            with self._context(recipe, manifest, files) as context:
                builder.build(image, context, report)
            digest = builder.digest(image)
            if digest is None:
                raise NotDeployable(
                    f"The image {image} was built and is gone. Nothing that serves was changed.",
                    fix="Does something prune images on this machine? Build it again.",
                )
        report(f"{image} is built", None)
        builder.deliver(image, report)
        self._brought[image] = (digest, time.monotonic())
        report(f"{image} is where the cluster finds it", 1.0)
        return digest

    def outlook(self, image: str) -> Finding:
        """Whether `make` would find the image, bring it or build it."""
        name = checks.PACKAGE
        if self._arrived(image):
            return Finding(name, Verdict.PASS, f"The image {image} is there already.")
        digest = self.builder.digest(image)
        if self._just_brought(image, digest):
            return Finding(name, Verdict.PASS, f"The image {image} was just brought there.")
        made = "will be built" if digest is None else "is built"
        return Finding(name, Verdict.PASS, f"The image {image} {made}, and will be brought there.")

    def exists(self, image: str, digest: str) -> Finding:
        """Whether an earlier release's image can still be started."""
        name = checks.PACKAGE
        anew = "Make it again: `slipway image REF` with the version's REF, for the same target."
        if self.builder.shared:
            there = self.builder.pushed(image)
            detail = f"The image {image} is {'' if there else 'not '}in its registry."
            verdict = Verdict.PASS if there else Verdict.FAIL
            return Finding(name, verdict, detail, "" if there else anew)
        nodes = self._on_nodes()
        if nodes is not None and image in nodes:
            return Finding(name, Verdict.PASS, f"The image {image} is on the cluster's nodes.")
        found = self.builder.digest(image)
        if found is None:
            known = "" if nodes is None else ", and no node of the cluster has it"
            return Finding(
                name, Verdict.FAIL, f"The image {image} is not on this machine{known}.", anew
            )
        if digest and found != digest:
            return Finding(
                name,
                Verdict.WARN,
                f"The image {image} was built again since: {found[:19]}…, then {digest[:19]}….",
                "Its files are the same; unpinned libraries may be newer.",
            )
        if nodes is None:
            return Finding(
                name, Verdict.PASS, f"The image {image} is built; the nodes' may not be listed."
            )
        return Finding(
            name, Verdict.WARN, f"The image {image} is here, but no node of the cluster shows it.",
            "If its pod cannot start, `slipway image REF` brings it there again.",
        )  # fmt: skip

    def _arrived(self, image: str) -> bool:
        if self.builder.shared:
            return self.builder.pushed(image)
        nodes = self._on_nodes()
        return nodes is not None and image in nodes

    def _just_brought(self, image: str, digest: str | None) -> bool:
        if self.builder.shared:
            return False  # the registry is asked, and knows at once
        brought, at = self._brought.get(image, ("", 0.0))
        return bool(brought) and brought == digest and time.monotonic() - at < BROUGHT_FOR_S

    @contextmanager
    def _context(
        self, recipe: Recipe, manifest: Manifest | None, files: Path | None
    ) -> Iterator[Path]:
        """The folder that is handed to the builder; gone afterwards."""
        self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._work, prefix="build-"))
        try:
            (folder / "Dockerfile").write_text(recipe.dockerfile, encoding="utf-8")
            (folder / "requirements.txt").write_text(recipe.requirements, encoding="utf-8")
            if manifest is not None and files is not None:
                for file in manifest.files:
                    _linked(files / file.path, folder / "model" / file.path)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class ImagePackager:
    """ports.Packager into images that hold the version. Safe to use from several threads."""

    def __init__(
        self,
        registry: Registry,
        work: Path,
        builder: Callable[[], Builder],
        options: ImageOptions = ImageOptions(),
        *,
        on_nodes: NodeImages = _not_known,
    ) -> None:
        """Stage files and build below `work`. `builder` is asked for when one is needed first."""
        self._registry = registry
        self._options = options
        self._staging = Staging(work / "staging", registry)
        self._maker = _Maker(builder, work / "builds", on_nodes)

    def recipe(self, version: ModelVersion) -> Recipe:
        """What the version's image is made of; builds nothing. NotDeployable."""
        return self._recipe(version, no_report)[0]

    def propose(self, version: ModelVersion) -> Package:
        """Say what the image is called and who builds it; builds nothing. NotDeployable.

        ConfigError without a builder, Unreachable when it does not answer.
        """
        recipe, manifest, _ = self._recipe(version, no_report)
        return self._package(recipe, manifest)

    def make(self, version: ModelVersion, report: Report = no_report) -> Package:
        """Build the image and bring it to the cluster, or find it there. Idempotent by content."""
        recipe, manifest, files = self._recipe(version, report)
        digest = self._maker.make(recipe, report, manifest=manifest, files=files)
        return replace(self._package(recipe, manifest), image_digest=digest)

    def check(self) -> Sequence[Finding]:
        """Whether there is who builds; only warns, for what is built already is served still."""
        try:
            self._maker.builder  # noqa: B018 (looks for one)
        except SlipwayError as error:
            detail = f"Nothing can be deployed here yet. {error.what} {error.why}".strip()
            fix = f'Set bucket = "gs://BUCKET/ROOT" for the target in slipway.toml, or: {error.fix}'
            return (Finding("packages", Verdict.WARN, detail, fix),)
        return ()

    def outlook(self, version: ModelVersion) -> Finding:
        """Whether the image is there already or will be built. Never raises."""
        return _guarded(lambda: self._maker.outlook(self.recipe(version).image), Verdict.FAIL)

    def exists(self, package: Package) -> Finding:
        """Whether the image can still be started. Never raises."""
        if package.kind is not PackageKind.IMAGE:
            return Finding(checks.PACKAGE, Verdict.SKIP, f"{one_line(package.uri)} is no image.")
        return _guarded(lambda: self._maker.exists(package.uri, package.image_digest))

    def _recipe(self, version: ModelVersion, report: Report) -> tuple[Recipe, Manifest, Path]:
        _require_ready(version)
        details = self._registry.details(version.ref)
        libraries = libraries_for(details, base=self._options.base, server=self._options.server)
        manifest, files = self._staging.staged(version, report)
        recipe = model_recipe(
            version.ref,
            libraries,
            files_digest=manifest.digest,
            prefix=self._options.prefix,
        )
        return recipe, manifest, files

    def _package(self, recipe: Recipe, manifest: Manifest) -> Package:
        made_by = _made_by(recipe.libraries, self._maker, recipe.image)
        speaks_v2 = recipe.libraries.server is Server.MLSERVER
        return Package(
            PackageKind.IMAGE,
            recipe.image,
            recipe.digest,
            manifest.size_bytes,
            protocol=InferenceProtocol.V2 if speaks_v2 else InferenceProtocol.INVOCATIONS,
            made_by=made_by,
        )


class Runtimes(Protocol):
    """What environments need of the cluster."""

    def offer_environment(self, environment: str) -> None:
        """Make an environment's image a runtime of the namespace. Idempotent."""

    def offers_environment(self, environment: str) -> bool:
        """Whether that runtime is there."""


class EnvironmentPackager:
    """ports.Packager: the files by another packager, the libraries in an image of their own."""

    def __init__(
        self,
        files: Packager,
        registry: Registry,
        work: Path,
        builder: Callable[[], Builder],
        options: ImageOptions = ImageOptions(),
        *,
        runtimes: Runtimes,
        on_nodes: NodeImages = _not_known,
    ) -> None:
        """`files` packages the version's files. ConfigError for a server that loads none."""
        if options.server is not Server.MLSERVER:
            raise ConfigError(
                "An environment of its own needs MLServer.",
                why="KServe hands it the model's folder, as MLServer takes it.",
                fix='Set server = "mlserver" for the target\'s images, or use `--package image`.',
            )
        self._files = files
        self._registry = registry
        self._options = options
        self._runtimes = runtimes
        self._maker = _Maker(builder, work / "builds", on_nodes)

    def propose(self, version: ModelVersion) -> Package:
        """Where the files will be, and the image that loads them. NotDeployable, ConfigError."""
        recipe = self._recipe(version)
        package = self._files.propose(version)
        made_by = _made_by(recipe.libraries, self._maker, recipe.image)
        return replace(package, environment=recipe.image, made_by=made_by)

    def make(self, version: ModelVersion, report: Report = no_report) -> Package:
        """Publish the files; build, bring and offer the environment, unless it is there."""
        recipe = self._recipe(version)
        package = self._files.make(version, report)
        digest = self._maker.make(recipe, report, manifest=None, files=None)
        self._runtimes.offer_environment(recipe.image)
        made_by = _made_by(recipe.libraries, self._maker, recipe.image)
        return replace(package, environment=recipe.image, image_digest=digest, made_by=made_by)

    def check(self) -> Sequence[Finding]:
        """Whether the place of the files can be reached. Never raises."""
        return self._files.check()

    def outlook(self, version: ModelVersion) -> Finding:
        """What becomes of the files, and of the environment's image. Never raises."""
        files = self._files.outlook(version)
        if files.verdict is Verdict.FAIL:
            return files
        image = _guarded(lambda: self._maker.outlook(self._recipe(version).image), Verdict.FAIL)
        if image.verdict is Verdict.FAIL:
            return image
        return replace(files, detail=f"{files.detail} {image.detail}")

    def exists(self, package: Package) -> Finding:
        """Whether files and environment are still there. Never raises."""
        files = self._files.exists(package)
        if files.verdict is not Verdict.PASS:
            return files
        return _guarded(lambda: self._offered(package))

    def _offered(self, package: Package) -> Finding:
        image = self._maker.exists(package.environment, package.image_digest)
        if image.verdict in {Verdict.FAIL, Verdict.SKIP}:
            return image
        if not self._runtimes.offers_environment(package.environment):
            return Finding(
                checks.PACKAGE,
                Verdict.FAIL,
                f"The runtime that offers {package.environment} is gone.",
                "Deploy the version again: that offers it anew.",
            )
        return image

    def _recipe(self, version: ModelVersion) -> Recipe:
        _require_ready(version)
        details = self._registry.details(version.ref)
        libraries = libraries_for(details, base=self._options.base)
        return environment_recipe(libraries, prefix=self._options.prefix)


def _made_by(libraries: Libraries, maker: _Maker, image: str) -> str:
    return f"{image} from {libraries.base}, {maker.builder.words}; {maker.state(image)}."


def _guarded(look: Callable[[], Finding], otherwise: Verdict = Verdict.SKIP) -> Finding:
    try:
        return look()
    except SlipwayError as error:
        detail = f"{error.what} {error.why}".strip()
        return Finding(checks.PACKAGE, otherwise, detail, error.fix, refusal=type(error))


def _linked(source: Path, place: Path) -> None:
    """A file in the build's folder without a copy of its bytes, where the file system can."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
    # Modes are part of a layer: the registry's umask must not make the same files another image,
    # and the container's user has to read them.
    place.chmod(0o644)


def _require_ready(version: ModelVersion) -> None:
    if version.registration is not Registration.READY:
        raise NotDeployable(
            f"{version.ref} cannot be packaged. Nothing was changed.",
            why=f"Its registration is {version.registration}.",
            fix="Wait until it is ready, or register the model again.",
        )
