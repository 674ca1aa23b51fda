"""A version's files on this machine, downloaded once, and the manifest that names their content.

Packagers that send files elsewhere (a bucket, an image) begin here, so that the same version has
the same digest wherever it goes. Callers: gcs.py, images.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from services.domain import ModelVersion
from services.errors import NotDeployable, one_line
from services.ports import Registry, Report, no_report

_HASH_CHUNK_BYTES = 1024 * 1024

# Written by MLflow when it downloads through models:/NAME/N (3.17.2); part of the download, not of
# the version: with it the same bytes would have two digests.
_NOT_OF_THE_VERSION = frozenset({"registered_model_meta"})


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """One file of a manifest; `crc32c` base64 as Google Cloud Storage writes it, sha256 hex."""

    path: str
    size_bytes: int
    crc32c: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a package holds. The digest covers paths and bytes, not where they came from."""

    model: str
    version: int
    digest: str
    files: tuple[PackagedFile, ...]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)


class Staging:
    """Versions downloaded below one folder; safe from several threads and processes."""

    def __init__(self, root: Path, registry: Registry) -> None:
        self._root = root
        self._registry = registry
        self._lock = threading.Lock()

    def staged(self, version: ModelVersion, report: Report = no_report) -> tuple[Manifest, Path]:
        """The manifest of a version's files and the folder that holds them. NotDeployable."""
        model, number = version.ref.model, version.ref.number
        place = self._root / slug(model) / str(number) / _source_key(version)
        with self._lock:
            if not place.is_dir():
                report(f"reading {version.ref} from the registry", None)
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                fresh = Path(tempfile.mkdtemp(dir=place.parent, prefix=".fresh-"))
                try:
                    self._registry.download(version.ref, fresh, report)
                    # Renaming makes a download that was cut short look like none at all.
                    fresh.rename(place)
                except OSError:
                    if not place.is_dir():  # else another process was quicker
                        raise
                finally:
                    shutil.rmtree(fresh, ignore_errors=True)
        return manifest_of(place, model, number), place


def _source_key(version: ModelVersion) -> str:
    """Tells two registries' versions of one name and number apart."""
    return hashlib.sha256(f"{version.model_id or ''}\n{version.source}".encode()).hexdigest()[:12]


def manifest_of(folder: Path, model: str, version: int) -> Manifest:
    """Hash every file below `folder`. NotDeployable for a link or an empty folder."""
    files = []
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            relative = path.relative_to(folder).as_posix()
            if relative in _NOT_OF_THE_VERSION:
                continue
            if path.is_symlink() or not path.is_file():
                raise NotDeployable(
                    f"{model}/{version} cannot be packaged. Nothing was changed.",
                    why=f"{one_line(relative)} is no plain file.",
                )
            files.append(_hashed(path, relative))
    if not files:
        raise NotDeployable(
            f"{model}/{version} cannot be packaged. Nothing was changed.",
            why="It has no files.",
            fix="Register the version again.",
        )
    files.sort(key=lambda file: file.path)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.size_bytes}\0{file.sha256}\n".encode())
    return Manifest(model, version, digest.hexdigest(), tuple(files))


def _hashed(path: Path, relative: str) -> PackagedFile:
    sha256, crc32c, size = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            sha256.update(chunk)
            crc32c = google_crc32c.extend(crc32c, chunk)
            size += len(chunk)
    return PackagedFile(relative, size, base64_of(crc32c), sha256.hexdigest())


def base64_of(crc32c: int) -> str:
    """A crc32c as Google Cloud Storage writes it."""
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode()


def slug(model: str) -> str:
    """A registered model's name as one path segment; names that had to change carry a hash."""
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", model).strip("-")[:80]
    if kept == model:
        return kept
    return f"{kept or 'model'}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"
