"""Packages of target `local`: a version's files, copied once into a folder that is never changed.

::

    <root>/<model>/<number>/
        index.json          which source gave which digest: a second look costs one stat per file
        staged/<digest>/    files that were read to know the digest; no server looks there
        <digest>/           the package: the files as the registry gave them
        <digest>.json       its manifest: path, size and sha256 of each, written last

The digest is the sha256 of the manifest, so equal bytes are one package and different bytes under
one version number never meet in one folder. A plan is shown with the digest, so `propose` reads the
files into `staged`, and `make` moves them from there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from services import records
from services.checks import PACKAGE
from services.domain import (
    Finding,
    ModelVersion,
    Package,
    PackageKind,
    Registration,
    Verdict,
    VersionRef,
)
from services.errors import ConfigError, NotDeployable, SlipwayError, one_line
from services.local.state import make_folder, read_text, write_whole
from services.ports import Registry, Report, no_report

_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file of a package."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PackageManifest:
    """The files of a package, by path."""

    files: tuple[PackedFile, ...]

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class _Index:
    """Which package was made from which source."""

    digests: dict[str, str]


class FolderPackager:
    """ports.Packager into folders below `root`."""

    def __init__(self, root: Path, registry: Registry) -> None:
        self._root = root.absolute()
        self._registry = registry

    def propose(self, version: ModelVersion) -> Package:
        """Say what the package is, reading the files once to know. NotDeployable, NotFound."""
        _require_ready(version)
        made = self._made(version)
        if made is not None:
            return made
        with self._held(version) as folder:
            made = self._made(version)
            return made or self._staged(version, folder, no_report)

    def make(self, version: ModelVersion, report: Report = no_report) -> Package:
        """Make the package, or find it made. NotDeployable, NotFound."""
        _require_ready(version)
        made = self._made(version)
        if made is None:
            with self._held(version) as folder:
                made = self._made(version)
                if made is None:
                    package = self._staged(version, folder, report)
                    made = _moved_into_place(package, folder)
        report(f"The package of {version.ref} is there: {made.size_bytes:,} bytes.", 1.0)
        return made

    def check(self) -> Sequence[Finding]:
        """Nothing: the folder is one of the target's own checks."""
        return ()

    def outlook(self, version: ModelVersion) -> Finding:
        """Whether its folder is there or will be made, and from how much. Never raises."""
        try:
            made = self._made(version)
            package = made or self.propose(version)
        except (OSError, SlipwayError) as error:
            refusal = type(error) if isinstance(error, SlipwayError) else None
            return Finding(PACKAGE, Verdict.FAIL, one_line(error), refusal=refusal)
        detail = "Copied already" if made else f"Will be copied: {package.size_bytes or 0:,} bytes"
        return Finding(PACKAGE, Verdict.PASS, f"{detail}.")

    def exists(self, package: Package) -> Finding:
        """Whether a package is whole, byte for byte. Never raises."""
        name = PACKAGE
        folder = Path(package.uri)
        if package.kind is not PackageKind.FOLDER:
            return Finding(name, Verdict.SKIP, "Only folders are looked at on this machine.")
        try:
            manifest = _manifest_at(folder.with_name(f"{folder.name}.json"))
            problem = (
                f"{folder} is not there."
                if manifest is None
                else _misfit(folder, manifest, deep=True)
            )
        except (OSError, ConfigError) as error:
            problem = f"{folder} cannot be read: {error}"
        if problem:
            return Finding(
                name, Verdict.FAIL, problem, "Deploy the version again: that makes it anew."
            )
        return Finding(name, Verdict.PASS, "Every file is there with its checksum.")

    def _folder(self, ref: VersionRef) -> Path:
        return self._root / _slug(ref.model) / str(ref.number)

    @contextlib.contextmanager
    def _held(self, version: ModelVersion) -> Iterator[Path]:
        folder = make_folder(self._folder(version.ref))
        # Another process may be copying gigabytes just now: wait for it rather than refuse.
        with filelock.FileLock(folder / "lock", mode=0o600), _disk_errors(version.ref, folder):
            yield folder

    def _made(self, version: ModelVersion) -> Package | None:
        folder = self._folder(version.ref)
        digest = _known_digest(folder, version)
        return None if digest is None else _whole(folder / digest, folder / f"{digest}.json")

    def _staged(self, version: ModelVersion, folder: Path, report: Report) -> Package:
        """The package as it will be, its files read into `staged`."""
        staging = make_folder(folder / "staged")
        digest = _known_digest(folder, version)
        if digest is not None:
            found = _whole(staging / digest, staging / f"{digest}.json")
            if found is not None:
                return replace(found, uri=str(folder / digest))
        for left in staging.iterdir():  # by a process that was killed: we hold the lock
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        part = make_folder(staging / "part")
        self._registry.download(version.ref, part, report)
        if not (part / "MLmodel").is_file():
            raise NotDeployable(
                f"{version.ref} cannot be packaged. Nothing was changed.",
                why="Its files hold no MLmodel: it is no MLflow model.",
                fix="Register the folder that mlflow's log_model made.",
            )
        for cache in list(part.rglob("__pycache__")):
            # Not of the version: servers write bytecode beside a model's code when they load it.
            shutil.rmtree(cache, ignore_errors=True)  # one in another is gone with it
        manifest = _measured(part)
        text = records.dump(manifest, indent=2)
        digest = hashlib.sha256(text.encode()).hexdigest()
        part.rename(staging / digest)
        write_whole(staging / f"{digest}.json", text)
        _remember(folder, version, digest)
        return Package(PackageKind.FOLDER, str(folder / digest), digest, manifest.size_bytes)


def _known_digest(folder: Path, version: ModelVersion) -> str | None:
    text = read_text(folder / "index.json")
    digest = None if text is None else records.load(_Index, text).digests.get(_source_key(version))
    return digest if digest and re.fullmatch(r"[0-9a-f]{64}", digest) else None


def _remember(folder: Path, version: ModelVersion, digest: str) -> None:
    text = read_text(folder / "index.json")
    digests = {} if text is None else records.load(_Index, text).digests
    digests[_source_key(version)] = digest
    write_whole(folder / "index.json", records.dump(_Index(digests)), durable=True)


def _moved_into_place(package: Package, folder: Path) -> Package:
    final = Path(package.uri)
    staged = folder / "staged" / package.digest
    manifest = staged.with_name(f"{package.digest}.json")
    if final.exists():  # damaged, or without its manifest: nothing that is whole gets here
        shutil.rmtree(final)
    staged.rename(final)
    write_whole(folder / manifest.name, manifest.read_text(encoding="utf-8"), durable=True)
    manifest.unlink()
    return package


def _whole(folder: Path, manifest_path: Path) -> Package | None:
    manifest = _manifest_at(manifest_path)
    if manifest is None or _misfit(folder, manifest, deep=False):
        return None
    return Package(PackageKind.FOLDER, str(folder), folder.name, manifest.size_bytes)


def _require_ready(version: ModelVersion) -> None:
    if version.registration is not Registration.READY:
        raise NotDeployable(
            f"{version.ref} cannot be deployed. Nothing was changed.",
            why=f"The registry says that its registration is {version.registration}.",
            fix="Wait until it is ready, or register it again.",
        )


def _slug(model: str) -> str:
    """A folder name for any model name: readable, and another one for each model."""
    readable = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:40] or "model"
    return f"{readable}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def _source_key(version: ModelVersion) -> str:
    """What tells two registries' versions of one name and number apart."""
    text = "\n".join((version.ref.model, version.model_id or "", version.source))
    return hashlib.sha256(text.encode()).hexdigest()


def _manifest_at(path: Path) -> PackageManifest | None:
    text = read_text(path)
    if text is None or hashlib.sha256(text.encode()).hexdigest() != path.stem:
        return None
    return records.load(PackageManifest, text)


def _measured(folder: Path) -> PackageManifest:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return PackageManifest(
        tuple(
            PackedFile(path.relative_to(folder).as_posix(), path.stat().st_size, _sha256(path))
            for path in paths
        )
    )


def _misfit(folder: Path, manifest: PackageManifest, *, deep: bool) -> str:
    """What differs from the manifest, as a sentence; "" when nothing does."""
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            return f"{file.path} is missing in {folder}."
        if path.stat().st_size != file.size_bytes or (deep and _sha256(path) != file.sha256):
            return f"{file.path} in {folder} is not what was packaged."
    return ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _disk_errors(ref: VersionRef, folder: Path) -> Iterator[None]:
    """Translate a full disk while a version is copied."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise NotDeployable(
            f"{ref} cannot be packaged: the disk is full. Nothing was changed.",
            why=f"{folder} has no room for its files.",
            fix="Make room, then deploy again.",
        ) from error
