"""The files of a version: where they may lie, what is there, and copies of them. Confined.

A version's source is text that anybody with access to the registry chose. So a place is taken only
below roots that the operator allowed or that the registry itself hands out; symbolic links, special
files and paths that climb are refused; files and bytes are counted before anything is copied.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from services.domain import FileEntry, VersionRef
from services.errors import (
    ConfigError,
    Denied,
    NotDeployable,
    NotFound,
    SlipwayError,
    Unreachable,
    one_line,
)
from services.ports import Report
from services.registry.bounded import within

if TYPE_CHECKING:
    from services.registry.server import Server

T = TypeVar("T")

_META = "registered_model_meta"
"""MLflow's note of a download, no part of the model; it would change the package's digest."""

_PROXY = "mlflow-artifacts"
_BUCKETS = frozenset({"s3", "s3a", "s3n", "gs", "wasbs", "abfs", "abfss", "r2", "hdfs", "oss"})
"""Stores that MLflow reads with the operator's own credentials. Not http, ftp, sftp, dbfs: a source
there would let whoever registered it choose the host that we call."""

_SYSTEM = tuple(
    Path(path)
    for path in (
        *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin"),
        *("/sys", "/usr", "/var/lib", "/var/log", "/var/run", "/var/spool", "/System", "/Library"),
    )
)
"""Never artifacts by a registry's word alone; `allowed_sources` may still name a place in them."""

_DEPTH = 16
_FOLDERS = 1_000
_COPY_SLOWEST_BYTES_PER_S = 256 * 1024


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that one version may hold."""

    files: int
    size_bytes: int


class Files(Protocol):
    """The files below one place. Paths are relative, with "/"."""

    def entries(self, caps: Caps) -> Sequence[FileEntry]:
        """Every file. NotFound when the place is gone; NotDeployable for links and beyond caps."""

    def read(self, path: str, limit_bytes: int) -> bytes:
        """One file, at most `limit_bytes` long. NotFound."""

    def copy(self, entry: FileEntry, into: Path) -> None:
        """Copy one file to the path `into`, which does not exist yet."""


# ── Where files may lie ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Roots:
    """What the operator allowed, and what the registry hands out."""

    allowed: tuple[str, ...]
    handed_out: tuple[str, ...]


def place(
    uri: str, roots: Callable[[], Roots], ref: VersionRef, server: Server | None, timeout_s: float
) -> Files:
    """The files at `uri`, or NotDeployable with the reason why that place is not taken."""
    if not uri:
        raise _refused(ref, "the registry does not say where its files are.")
    if _climbs(uri):
        raise _refused(ref, f"its place {one_line(uri, 120)!r} is written to mislead.")
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        if parts.netloc not in ("", "localhost"):
            raise _refused(ref, f"its place names another machine ({one_line(parts.netloc, 60)}).")
        path = Path(unquote(parts.path) if parts.scheme == "file" else uri)
        return LocalFiles(_confined(path, roots(), ref), ref)
    if parts.scheme == _PROXY:
        if server is None:
            raise _refused(ref, "its place is behind a tracking server, but there is none here.")
        if parts.netloc not in ("", server.netloc):
            raise _refused(ref, f"its place names another server ({one_line(parts.netloc, 60)}).")
        return ProxyFiles(server, parts.path.strip("/"), ref)
    if parts.scheme not in _BUCKETS:
        raise _refused(ref, f"its place is of a kind that is not read ({one_line(parts.scheme)}:).")
    known = roots()
    if not any(_below(uri, root) for root in (*known.allowed, *known.handed_out)):
        raise _refused(
            ref, f"{one_line(uri, 160)} lies outside the places that this registry hands out."
        )
    return BucketFiles(uri, ref, timeout_s)


def _refused(ref: VersionRef, why: str) -> NotDeployable:
    return NotDeployable(
        f"The files of {one_line(ref, 90)} are not taken.",
        why=f"For safety: {why}",
        fix="Register it from its run again, or allow the place: allowed_sources under [registry] "
        "in slipway.toml.",
    )


_ENCODED = re.compile(r"%(?:2e|2f|5c|00|23|3f)", re.IGNORECASE)


def _climbs(uri: str) -> bool:
    """True for what two readers could take for two places: .., fragments, encodings, controls."""
    return (
        any(not c.isprintable() or c in "#?;\\" for c in uri)
        or _ENCODED.search(uri) is not None
        or ".." in uri.split("/")
    )


def _below(uri: str, root: str) -> bool:
    place, base = urlsplit(uri), urlsplit(root)
    path, above = PurePosixPath(place.path or "/"), PurePosixPath(base.path or "/")
    return (place.scheme, place.netloc) == (base.scheme, base.netloc) and (
        path.is_relative_to(above)
    )


def _local(root: str) -> Path | None:
    parts = urlsplit(root)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).resolve()
    return Path(root).resolve() if not parts.scheme else None


def _confined(path: Path, roots: Roots, ref: VersionRef) -> Path:
    """The folder with links resolved, when it lies in an allowed root. NotFound when it is gone."""
    real = path.resolve()
    allowed = [root for root in map(_local, roots.allowed) if root is not None]
    handed_out = [
        root for root in map(_local, roots.handed_out) if root is not None and not _is_system(root)
    ]
    if not any(real.is_relative_to(root) for root in (*allowed, *handed_out)):
        raise _refused(ref, f"{one_line(path, 160)} lies outside the artifact folders.")
    if not real.is_dir():
        raise _gone(ref, f"{one_line(path, 160)} is no folder.")
    return real


def _is_system(root: Path) -> bool:
    """True for a root that holds more than artifacts: the disk, a home, the system's folders."""
    holds_others = root == Path(root.anchor) or Path.home().resolve().is_relative_to(root)
    # In a container the home is often /root itself; below one's own home artifacts are usual.
    at_home = root.is_relative_to(Path.home().resolve()) and Path.home() != Path(root.anchor)
    hidden = at_home and root.relative_to(Path.home().resolve()).parts[:1] in (
        (".ssh",),
        (".aws",),
        (".config",),
        (".kube",),
        (".gnupg",),
    )
    system = not at_home and any(root.is_relative_to(folder) for folder in _SYSTEM)
    return holds_others or hidden or system


def _gone(ref: VersionRef, why: str) -> NotFound:
    return NotFound(
        f"The files of {one_line(ref, 90)} are gone.",
        why=why,
        fix="Restore them where they were, or register the version again.",
    )


def _too_much(ref: VersionRef, caps: Caps) -> NotDeployable:
    return NotDeployable(
        f"The files of {one_line(ref, 90)} are too many or too large.",
        why=f"The limits are {caps.files:,} files and {caps.size_bytes / 2**30:.1f} GiB.",
        fix="Look at what was logged with the model; data sets do not belong into it.",
    )


class _Counting:
    """Entries as they are found, refused as soon as a cap is passed."""

    def __init__(self, ref: VersionRef, caps: Caps) -> None:
        self._ref, self._caps = ref, caps
        self._size_bytes = 0
        self.entries: list[FileEntry] = []

    def add(self, path: str, size_bytes: int) -> None:
        pure = PurePosixPath(path)
        if (
            pure.is_absolute()
            or not path
            or any(part in ("", ".", "..") for part in path.split("/"))
            or "\\" in path
            or not path.isprintable()
        ):
            raise _refused(self._ref, f"a file is called {one_line(path, 120)!r}.")
        if path.split("/", maxsplit=1)[0] == _META:
            return
        self._size_bytes += max(0, size_bytes)
        self.entries.append(FileEntry(path, size_bytes))
        if len(self.entries) > self._caps.files or self._size_bytes > self._caps.size_bytes:
            raise _too_much(self._ref, self._caps)


# ── Files on this machine ─────────────────────────────────────────────────────────────────────


class LocalFiles:
    """A folder of this machine, already confined."""

    def __init__(self, root: Path, ref: VersionRef) -> None:
        self._root, self._ref = root, ref

    def entries(self, caps: Caps) -> Sequence[FileEntry]:
        """Every regular file; the first link or special file is refused by name."""
        counting = _Counting(self._ref, caps)
        waiting = [self._root]
        folders = 0
        while waiting:
            folder = waiting.pop()
            folders += 1
            if folders > max(caps.files, _FOLDERS):
                raise _too_much(self._ref, caps)
            with self._translated(), os.scandir(folder) as found:
                for entry in found:
                    path = Path(entry.path).relative_to(self._root).as_posix()
                    mode = entry.stat(follow_symlinks=False).st_mode
                    if stat.S_ISDIR(mode):
                        waiting.append(Path(entry.path))
                    elif stat.S_ISREG(mode):
                        counting.add(path, entry.stat(follow_symlinks=False).st_size)
                    else:
                        raise _refused(
                            self._ref, f"{one_line(path, 120)} is a link or no plain file."
                        )
        return counting.entries

    def read(self, path: str, limit_bytes: int) -> bytes:
        """One file, read without following a link."""
        with self._opened(path) as descriptor, os.fdopen(descriptor, "rb") as file:
            content = file.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            raise _gone(self._ref, f"{one_line(path)} is larger than {limit_bytes:,} bytes.")
        return content

    def copy(self, entry: FileEntry, into: Path) -> None:
        """One file; no byte more than was counted."""
        with (
            self._opened(entry.path) as descriptor,
            os.fdopen(descriptor, "rb") as file,
            into.open("xb") as copy,
        ):
            left = entry.size_bytes
            while left and (chunk := file.read(min(left, 1 << 20))):
                copy.write(chunk)
                left -= len(chunk)

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        with self._translated():
            # A file that became a link, or a pipe, after it was listed is not followed.
            descriptor = os.open(self._root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _refused(self._ref, f"{one_line(path, 120)} is no plain file.")
        yield descriptor

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise _gone(self._ref, f"{one_line(error.filename, 160)} does not exist.") from error
        except OSError as error:
            raise Unreachable(
                f"The files of {one_line(self._ref, 90)} cannot be read.",
                why=f"{one_line(error.filename or '', 160)}: {one_line(error.strerror or error)}.",
                fix="Give this user the right to read them.",
            ) from error


# ── Files behind the tracking server ──────────────────────────────────────────────────────────


class ProxyFiles:
    """A folder of the tracking server's artifact proxy."""

    def __init__(self, server: Server, root: str, ref: VersionRef) -> None:
        self._server, self._root, self._ref = server, root, ref

    def _at(self, path: str) -> str:
        return "/".join(part for part in (self._root, path) if part)

    def entries(self, caps: Caps) -> Sequence[FileEntry]:
        """Every file, one call per folder."""
        counting = _Counting(self._ref, caps)
        deadline = self._server.deadline()
        waiting = [""]
        folders = 0
        while waiting:
            folder = waiting.pop()
            folders += 1
            if folders > _FOLDERS or folder.count("/") > _DEPTH:
                raise _too_much(self._ref, caps)
            try:
                listed = self._server.list_files(self._at(folder), deadline)
            except NotFound as error:
                raise _gone(self._ref, "The artifact store does not have them.") from error
            for name, is_folder, size_bytes in listed:
                path = f"{folder}/{name}" if folder else name
                if is_folder and (not name or "/" in name or name in (".", "..")):
                    raise _refused(self._ref, f"a folder is called {one_line(name, 120)!r}.")
                if is_folder:
                    waiting.append(path)
                else:
                    counting.add(path, size_bytes)
        if not counting.entries:
            raise _gone(self._ref, "The artifact store has no files there.")
        return counting.entries

    def read(self, path: str, limit_bytes: int) -> bytes:
        """One file: one call."""
        return self._server.read_file(self._at(path), limit_bytes, self._server.deadline())

    def copy(self, entry: FileEntry, into: Path) -> None:
        """One file: one call."""
        self._server.save_file(self._at(entry.path), into, entry.size_bytes)


# ── Files in buckets ──────────────────────────────────────────────────────────────────────────


class _Found(Protocol):
    path: str
    is_dir: bool
    file_size: int | None


class _Repository(Protocol):
    """The little that is used of MLflow's artifact repositories."""

    def list_artifacts(self, path: str | None) -> Sequence[_Found]: ...

    def download_artifacts(self, *, artifact_path: str, dst_path: str) -> str: ...


class BucketFiles:
    """A prefix of a bucket, read by MLflow's own artifact repository for its kind."""

    def __init__(self, uri: str, ref: VersionRef, timeout_s: float) -> None:
        self._uri, self._ref, self._timeout_s = uri, ref, timeout_s

    def entries(self, caps: Caps) -> Sequence[FileEntry]:
        """Every object below the prefix, one listing per folder."""

        def work(repository: _Repository) -> Sequence[FileEntry]:
            counting = _Counting(self._ref, caps)
            waiting = [""]
            folders = 0
            while waiting:
                folder = waiting.pop()
                folders += 1
                if folders > _FOLDERS or folder.count("/") > _DEPTH:
                    raise _too_much(self._ref, caps)
                for found in repository.list_artifacts(folder or None):
                    if found.is_dir:
                        waiting.append(str(found.path))
                    else:
                        counting.add(str(found.path), int(found.file_size or 0))
            return counting.entries

        entries = self._bounded(self._timeout_s * 15, work)
        if not entries:
            raise _gone(self._ref, f"{one_line(self._uri, 160)} holds no objects.")
        return entries

    def read(self, path: str, limit_bytes: int) -> bytes:
        """One object, through a temporary file."""
        with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
            into = Path(folder) / "object"
            self.copy(FileEntry(path, limit_bytes), into)
            return LocalFiles(Path(folder), self._ref).read("object", limit_bytes)

    def copy(self, entry: FileEntry, into: Path) -> None:
        """One object; MLflow's repository names the copy after it, so it is moved."""
        with tempfile.TemporaryDirectory(prefix="slipway-", dir=into.parent) as folder:

            def work(repository: _Repository) -> None:
                made = repository.download_artifacts(artifact_path=entry.path, dst_path=folder)
                shutil.move(made, into)

            seconds = self._timeout_s * 15 + entry.size_bytes / _COPY_SLOWEST_BYTES_PER_S
            self._bounded(seconds, work)

    def _bounded(self, seconds: float, work: Callable[[_Repository], T]) -> T:
        # MLflow takes seconds to import; only who reads a bucket needs it.
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        def reading() -> T:
            try:
                return work(get_artifact_repository(self._uri))
            except SlipwayError:
                raise
            except ImportError as error:
                raise ConfigError(
                    f"The files of {one_line(self._ref, 90)} cannot be read here.",
                    why=f"Their store needs a library: {one_line(error)}.",
                    fix="Install it beside Slipway (for S3: boto3, for Azure: azure-storage-blob).",
                ) from error
            except (MlflowException, OSError, *_bucket_errors()) as error:
                status = str(getattr(error, "code", "") or "")
                refused = status in ("401", "403") or "Forbidden" in type(error).__name__
                kind = Denied if refused or "Credentials" in type(error).__name__ else Unreachable
                raise kind(
                    f"The files of {one_line(self._ref, 90)} cannot be read from their bucket.",
                    why=one_line(error),
                    fix="Give this account the right to read the bucket, and check the network.",
                ) from error

        return within(
            seconds,
            reading,
            lambda: Unreachable(
                f"The files of {one_line(self._ref, 90)} come too slowly.",
                why=f"The bucket did not finish within {seconds:.0f} s.",
                fix="Check the network to the bucket, then try again.",
            ),
        )


def _bucket_errors() -> tuple[type[Exception], ...]:
    """The error trees of the bucket libraries that are installed; none is ours to require."""
    found: list[type[Exception]] = []
    for module, name in (
        ("google.api_core.exceptions", "GoogleAPIError"),
        ("google.auth.exceptions", "GoogleAuthError"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("azure.core.exceptions", "AzureError"),
    ):
        loaded = sys.modules.get(module)  # not loaded: it cannot have raised
        if loaded is not None:
            found.append(getattr(loaded, name))
    return tuple(found)


# ── Copying a whole version ───────────────────────────────────────────────────────────────────


def copy_all(files: Files, into: Path, ref: VersionRef, caps: Caps, report: Report) -> None:
    """Copy every file into the empty folder `into`; on any failure nothing is left there."""
    entries = sorted(files.entries(caps), key=lambda entry: entry.path)
    if not any(entry.path == "MLmodel" for entry in entries):
        raise NotDeployable(
            f"The files of {one_line(ref, 90)} are no MLflow model.",
            why="There is no MLmodel among them.",
            fix="Register the folder that holds MLmodel, as log_model does.",
        )
    into.mkdir(parents=True, exist_ok=True)
    total = sum(entry.size_bytes for entry in entries)
    done = 0
    with ExitStack() as undo:
        undo.callback(_empty, into)
        for entry in entries:
            ratio = done / total if total else 0.0
            report(f"copying {entry.path} ({entry.size_bytes:,} bytes)", ratio)
            copy = into.joinpath(*entry.path.split("/"))
            copy.parent.mkdir(parents=True, exist_ok=True)
            files.copy(entry, copy)
            size_bytes = copy.stat().st_size
            if size_bytes != entry.size_bytes:
                raise Unreachable(
                    f"The files of {one_line(ref, 90)} changed while they were copied.",
                    why=f"{entry.path} had {entry.size_bytes:,} bytes, {size_bytes:,} arrived.",
                    fix="Try again; nothing was kept.",
                )
            done += entry.size_bytes
        undo.pop_all()
    report(f"copied {len(entries)} files", 1.0)


def _empty(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()
