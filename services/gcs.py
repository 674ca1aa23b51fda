"""Packaging `gcs`: copy a version once to a write-once prefix of a bucket that the pods can read.

The place is content-addressed: ``gs://<bucket>/<root>/<model>/<version>/<digest>/``. Every object
is written with the precondition that it does not exist, so nothing is ever overwritten; a pod that
starts next month downloads the bytes that were verified today. The manifest beside the prefix
(``<digest>.json``) is written last and is the commit mark: without it the prefix is half a copy
that no release names, and the next try sends only what is missing.

Read against google-cloud-storage 3.17 and fake-gcs-server. Implements ports.Packager. Knows no
MLflow: the registry hands it the files.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import orjson
import requests
from google.api_core import exceptions as google_errors
from google.auth import exceptions as auth_errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from services.checks import PACKAGE
from services.domain import (
    Finding,
    Json,
    ModelVersion,
    Package,
    PackageKind,
    Verdict,
)
from services.errors import (
    ConfigError,
    Denied,
    NotDeployable,
    NotFound,
    SlipwayError,
    Unreachable,
    one_line,
)
from services.network import network_cause
from services.ports import Registry, Report, no_report
from services.staging import Manifest, PackagedFile, Staging, base64_of, slug

UPLOADS_AT_ONCE = 8
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
"""Per request; a resumable upload is many requests."""
RETRY_FOR_S = 60.0
"""For so long one request is tried again. A precondition makes each try safe: what a lost
answer had written comes back as 412 and is compared."""

_NEEDED = ("storage.objects.create", "storage.objects.get", "storage.objects.list")

_ROLES = (
    "Give this account roles/storage.objectCreator and roles/storage.objectViewer on"
    " it (gcloud storage buckets add-iam-policy-binding)."
)
_LOOK = "Look at the network between, and at STORAGE_EMULATOR_HOST where that is set."
_AGAIN = "Publish again: only what is missing is sent."
_LOG_IN = "Log in again: gcloud auth application-default login."


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long the bucket is waited for, in seconds: each answer, and what is tried again."""

    read_s: float
    retry_s: float | None = None
    """None: as publishing does; 0: nothing is tried again."""

    @property
    def options(self) -> dict[str, Json]:
        """As the library's calls take them."""
        retry = DEFAULT_RETRY.with_timeout(self.retry_s or RETRY_FOR_S)
        return {
            "timeout": (CONNECT_TIMEOUT_S, self.read_s),
            "retry": retry if self.retry_s != 0 else None,
        }


_WORKING = _Patience(READ_TIMEOUT_S)
_LOOKING = _Patience(5.0, 4.0)
"""For a plan: somebody waits for it. One answer that was lost is asked for again."""
_BEGINNING = _Patience(READ_TIMEOUT_S, 10.0)
"""For what is asked before anything is sent: nothing is lost by saying that the bucket is away."""
_CHECKING = _Patience(CONNECT_TIMEOUT_S, 0)


class GcsPackager:
    """Publishes versions below one gs:// root. Implements ports.Packager."""

    def __init__(
        self, bucket: str, registry: Registry, staging: Path, *, emulator: str = ""
    ) -> None:
        """Publish below `bucket` (gs://bucket/root). Versions are staged in `staging` first.

        `emulator` is the address of an emulator, asked without credentials; else the library's own
        way holds: STORAGE_EMULATOR_HOST, or Application Default Credentials.
        """
        match = re.fullmatch(
            r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,221})(?:/(?P<root>.*))?", bucket
        )
        if match is None:
            raise ConfigError(
                f"{one_line(bucket)!r} names no bucket.",
                fix='Write bucket = "gs://BUCKET/ROOT" for the target in slipway.toml.',
            )
        self._bucket_name = match["bucket"]
        self._root = (match["root"] or "").strip("/")
        self._staging = Staging(staging, registry)
        self._emulator = emulator

    # ── The port ──────────────────────────────────────────────────────────────────────────────

    def propose(self, version: ModelVersion) -> Package:
        """Say where the package will be; writes nothing to the bucket. NotDeployable.

        The version is downloaded to this machine, because its place is named by its bytes.
        """
        if version.source.startswith("gs://"):
            # Where pods can read it already: used as it is.
            return Package(PackageKind.GCS, version.source.rstrip("/"))
        manifest = self._staging.staged(version)[0]
        return self._package(manifest)

    def make(self, version: ModelVersion, report: Report = no_report) -> Package:
        """Publish the version, or find it published; uploads only what is missing.

        NotDeployable when other bytes lie under one of the names; Denied, Unreachable, NotFound for
        the bucket. Whatever happens, nothing that serves changes.
        """
        if version.source.startswith("gs://"):
            return self.propose(version)
        manifest, folder = self._staging.staged(version, report)
        if self._is_committed(manifest):
            report(f"{version.ref} is published already", 1.0)
            return self._package(manifest)
        self._upload(manifest, folder, report)
        self._verify(manifest)
        self._commit(manifest)
        report(f"{version.ref} is published, {len(manifest.files)} files verified", 1.0)
        return self._package(manifest)

    def check(self) -> Sequence[Finding]:
        """Whether the bucket lets itself be listed and written to; writes nothing, never raises."""
        name = f"gs://{self._bucket_name}"
        began = time.monotonic()
        try:
            missing = self._missing_rights()
        except SlipwayError as error:
            fix = _without_again(error.fix)
            return (Finding("bucket", Verdict.FAIL, f"{name}: {error.why}", fix),)
        took_ms = (time.monotonic() - began) * 1000
        if missing is None:
            told = "whether this account may write there, it does not tell"
            verdict, fix = Verdict.PASS, ""
        elif missing:
            told = f"this account lacks {', '.join(missing)}"
            verdict, fix = Verdict.FAIL, _ROLES
        else:
            told, verdict, fix = "this account may write there", Verdict.PASS, ""
        return (Finding("bucket", verdict, f"{name} answered in {took_ms:.0f} ms; {told}.", fix),)

    def outlook(self, version: ModelVersion) -> Finding:
        """Whether it is published, or how much will be; FAIL where publishing would. Never raises.

        The version's files are on this machine since `propose`.
        """
        if version.source.startswith("gs://"):
            return self.exists(self.propose(version))
        try:
            return self._outlook(self._staging.staged(version)[0])
        except SlipwayError as error:
            fix = _without_again(error.fix)
            detail = f"{error.what} {error.why}".strip()
            return Finding(PACKAGE, Verdict.FAIL, detail, fix, refusal=type(error))

    def _outlook(self, manifest: Manifest) -> Finding:
        place = f"gs://{self._bucket_name}"
        prefix = self._prefix(manifest)
        # The manifest lies beside the prefix: both are in one answer.
        seen = self._listed(prefix, below="", patience=_LOOKING)
        there = {name[1:]: facts for name, facts in seen.items() if name.startswith("/")}
        self._must_fit(manifest, there)
        missing = _missing(manifest, there)
        count = len(manifest.files)
        if not missing and ".json" in seen:
            return Finding(PACKAGE, Verdict.PASS, f"Published already: {count} files, all there.")
        lacks = self._lacking(_LOOKING)
        if lacks:
            lacked = ", ".join(lacks)
            detail = f"It would have to be published in {place}: this account lacks {lacked}."
            return Finding(PACKAGE, Verdict.FAIL, detail, _ROLES, refusal=Denied)
        size = sum(file.size_bytes for file in missing)
        if ".json" in seen:
            detail = (
                f"Published, but {len(missing)} of {count} files are gone, for example"
                f" {one_line(missing[0].path)}. They will be sent again: {size:,} bytes."
            )
        else:
            known = "" if len(missing) == count else f" {count - len(missing)} files are there."
            detail = f"Will be published: {len(missing)} files, {size:,} bytes.{known}"
        return Finding(PACKAGE, Verdict.PASS, detail)

    def exists(self, package: Package) -> Finding:
        """Whether the package is still whole: the manifest is there and every checksum fits."""
        try:
            return self._whole(package)
        except NotFound as error:
            detail = f"{error.what} {error.why}".strip()
            return Finding(PACKAGE, Verdict.FAIL, detail, error.fix, refusal=NotFound)
        except SlipwayError as error:
            # A bucket that is silent here, or closed to this account, may be open to the pods.
            detail = f"{error.what} {error.why}".strip()
            return Finding(PACKAGE, Verdict.SKIP, detail, _without_again(error.fix))

    def _package(self, manifest: Manifest) -> Package:
        uri = f"gs://{self._bucket_name}/{self._prefix(manifest)}"
        return Package(PackageKind.GCS, uri, manifest.digest, manifest.size_bytes)

    def _prefix(self, manifest: Manifest) -> str:
        parts = (self._root, slug(manifest.model), str(manifest.version), manifest.digest)
        return "/".join(part for part in parts if part)

    # ── The bucket ────────────────────────────────────────────────────────────────────────────

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 (the library has no types)
        with self._bucket_errors("connect to"):
            if self._emulator:
                return storage.Client(
                    project="emulator",
                    credentials=AnonymousCredentials(),
                    client_options={"api_endpoint": self._emulator},
                )
            return storage.Client()

    @property
    def _bucket(self) -> Any:  # noqa: ANN401 (the library has no types)
        return self._client.bucket(self._bucket_name)

    def _missing_rights(self) -> tuple[str, ...] | None:
        """The rights that publishing needs and this account lacks; None: the bucket tells none."""
        with self._bucket_errors("look into", _CHECKING):
            found = self._client.list_blobs(self._bucket_name, max_results=1, **_CHECKING.options)
            next(iter(found), None)
        return self._lacking(_CHECKING)

    def _lacking(self, patience: _Patience) -> tuple[str, ...] | None:
        """Of a bucket that was listed: as `_missing_rights`."""
        with self._bucket_errors("look into", patience):
            try:
                held = self._bucket.test_iam_permissions(list(_NEEDED), **patience.options)
            except (google_errors.NotFound, google_errors.MethodNotImplemented):
                return None  # it was listed, so it is there: an emulator without accounts
        return tuple(right for right in _NEEDED if right not in held)

    def _listed(
        self, prefix: str, *, below: str = "/", patience: _Patience = _WORKING, bucket: str = ""
    ) -> dict[str, tuple[int, str]]:
        """Object name after `prefix` and `below` → (size in bytes, crc32c)."""
        start = f"{prefix}{below}"
        with self._bucket_errors("list", patience, bucket):
            blobs = self._client.list_blobs(
                bucket or self._bucket_name, prefix=start, **patience.options
            )
            return {
                blob.name[len(start) :]: (int(blob.size or 0), str(blob.crc32c)) for blob in blobs
            }

    def _upload(self, manifest: Manifest, folder: Path, report: Report) -> None:
        prefix = self._prefix(manifest)
        there = self._listed(prefix)
        sent = _Sent(manifest, report)
        missing = []
        for file in manifest.files:
            if file.path in there:
                _must_equal(f"{prefix}/{file.path}", file, *there[file.path])
                sent.add(file)
            else:
                missing.append(file)

        def upload(file: PackagedFile) -> None:
            self._put(f"{prefix}/{file.path}", file, folder / file.path)
            sent.add(file)

        with ThreadPoolExecutor(UPLOADS_AT_ONCE, thread_name_prefix="upload") as pool:
            try:
                for done in as_completed([pool.submit(upload, file) for file in missing]):
                    done.result()
            except SlipwayError:
                # What began is finished and kept; the rest is for the next try.
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _put(self, name: str, file: PackagedFile, path: Path) -> None:
        """Create one object; one that is there already has to hold the same bytes."""
        blob = self._bucket.blob(name)
        # The server compares it with what arrived. The library's own check would delete the object
        # after a mismatch, which needs a right that a write-once account does not have.
        blob.crc32c = file.crc32c
        with self._bucket_errors(f"write {one_line(name)} to"):
            try:
                blob.upload_from_filename(
                    str(path),
                    if_generation_match=0,
                    checksum=None,
                    **_WORKING.options,
                )
            except google_errors.PreconditionFailed:
                self._reload_and_compare(blob, name, file)

    def _reload_and_compare(self, blob: Any, name: str, file: PackagedFile) -> None:  # noqa: ANN401
        # 412: it exists. Either an answer to our own upload was lost, or it is somebody else's.
        blob.reload(**_WORKING.options)
        _must_equal(name, file, int(blob.size or 0), str(blob.crc32c))

    def _verify(self, manifest: Manifest) -> None:
        prefix = self._prefix(manifest)
        there = self._listed(prefix)
        missing = _missing(manifest, there)
        if missing:
            raise Unreachable(
                f"{one_line(missing[0].path)} did not arrive in gs://{self._bucket_name}/{prefix}/."
                " Nothing was changed.",
                why="The bucket took it and does not list it.",
                fix=_AGAIN,
            )
        self._must_fit(manifest, there)

    def _must_fit(self, manifest: Manifest, there: Mapping[str, tuple[int, str]]) -> None:
        """NotDeployable where the prefix holds anything but bytes of the version's files."""
        prefix = self._prefix(manifest)
        for file in manifest.files:
            if file.path in there:
                _must_equal(f"{prefix}/{file.path}", file, *there[file.path])
        extra = sorted(set(there) - {file.path for file in manifest.files})
        if extra:
            raise NotDeployable(
                f"gs://{self._bucket_name}/{prefix}/ holds files that are not the version's."
                " Nothing was changed.",
                why=f"For example {one_line(extra[0])}: pods would download it too.",
                fix="Find out who writes there, and remove them.",
            )

    def _commit(self, manifest: Manifest) -> None:
        body = orjson.dumps(asdict(manifest))
        name = f"{self._prefix(manifest)}.json"
        file = PackagedFile(
            name, len(body), base64_of(google_crc32c.value(body)), hashlib.sha256(body).hexdigest()
        )
        blob = self._bucket.blob(name)
        blob.crc32c = file.crc32c
        with self._bucket_errors("write the manifest to"):
            try:
                blob.upload_from_string(
                    body,
                    content_type="application/json",
                    if_generation_match=0,
                    checksum=None,
                    **_WORKING.options,
                )
            except google_errors.PreconditionFailed:
                self._reload_and_compare(blob, name, file)

    def _is_committed(self, manifest: Manifest) -> bool:
        with self._bucket_errors("read", _BEGINNING):
            blob = self._bucket.blob(f"{self._prefix(manifest)}.json")
            if not blob.exists(**_BEGINNING.options):
                return False
        there = self._listed(self._prefix(manifest))
        self._must_fit(manifest, there)
        # What somebody removed since is sent again: that overwrites nothing.
        return not _missing(manifest, there)

    def _whole(self, package: Package) -> Finding:
        bucket_name, _, prefix = package.uri.removeprefix("gs://").partition("/")
        prefix = prefix.rstrip("/")
        made = bool(package.digest)
        if package.kind is not PackageKind.GCS or (made and bucket_name != self._bucket_name):
            return Finding(
                PACKAGE, Verdict.SKIP, f"{one_line(package.uri)} is not in this target's bucket."
            )
        there = self._listed(prefix, patience=_LOOKING, bucket=bucket_name)
        if not made:
            if "MLmodel" in there:
                detail = f"{one_line(package.uri)}, used as it is: {len(there)} files."
                return Finding(PACKAGE, Verdict.PASS, detail)
            detail = f"{one_line(package.uri)}, to be used as it is, has no MLmodel."
            fix = "Register the version anew, from where its files are."
            return Finding(PACKAGE, Verdict.FAIL, detail, fix, refusal=NotFound)
        wrong = self._first_wrong(prefix, there)
        if wrong:
            return Finding(
                PACKAGE,
                Verdict.FAIL,
                f"{one_line(package.uri)} is not whole: {wrong}.",
                "Publish the version again (slipway publish REF): what is missing is sent. What"
                " others wrote there has to be removed first.",
            )
        return Finding(PACKAGE, Verdict.PASS, f"{len(there)} files, every checksum as published.")

    def _first_wrong(self, prefix: str, there: Mapping[str, tuple[int, str]]) -> str:
        with self._bucket_errors("read", _LOOKING):
            blob = self._bucket.blob(f"{prefix}.json")
            try:
                text = blob.download_as_bytes(**_LOOKING.options)
            except google_errors.NotFound:
                return "its manifest is gone"
        try:
            files: Sequence[Json] = orjson.loads(text)["files"]
            wanted = {f["path"]: (int(f["size_bytes"]), str(f["crc32c"])) for f in files}
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return "its manifest cannot be read"
        for path, seen in wanted.items():
            if there.get(path) != seen:
                return f"{one_line(path)} is {'gone' if path not in there else 'another file'}"
        extra = set(there) - set(wanted)
        return f"{one_line(min(extra))} was added" if extra else ""

    # ── The door for errors ───────────────────────────────────────────────────────────────────

    @contextmanager
    def _bucket_errors(
        self, doing: str, patience: _Patience = _WORKING, bucket: str = ""
    ) -> Iterator[None]:
        place = f"gs://{one_line(bucket or self._bucket_name)}"
        what = f"Could not {doing} {place}. Nothing that serves was changed."
        try:
            yield
        except auth_errors.DefaultCredentialsError as error:
            raise Denied(
                what,
                why="There are no Application Default Credentials.",
                fix="Run gcloud auth application-default login; in CI, use Workload Identity"
                " Federation. For an emulator set STORAGE_EMULATOR_HOST.",
            ) from error
        except auth_errors.RefreshError as error:
            raise Denied(what, why=one_line(error), fix=_LOG_IN) from error
        except google_errors.GoogleAPICallError as error:
            raise _refused(what, error) from error
        except DataCorruption as error:
            raise Unreachable(what, why=_changed_on_the_way(str(error)), fix=_AGAIN) from error
        except (
            google_errors.GoogleAPIError,
            auth_errors.TransportError,
            requests.RequestException,
            OSError,
        ) as error:
            why = network_cause(error, patience.read_s)
            raise Unreachable(what, why=why, fix=f"{self._look} {_AGAIN}") from error

    @property
    def _look(self) -> str:
        """Where to look when nothing answers: an emulator's address may be an old one."""
        client = self.__dict__.get("_client")  # not made for this: making it may be what failed
        address = str(client.api_endpoint) if client is not None else ""
        if not address or address.endswith(".googleapis.com"):
            return _LOOK
        return f"Look at the network between, and at STORAGE_EMULATOR_HOST: {one_line(address)}."


def _without_again(fix: str) -> str:
    """The fix for one who has only looked."""
    return fix.removesuffix(_AGAIN).strip() or _LOOK


def _missing(manifest: Manifest, there: Mapping[str, object]) -> list[PackagedFile]:
    return [file for file in manifest.files if file.path not in there]


def _said(error: Any) -> tuple[str, str]:  # noqa: ANN401 (the library has no types)
    """The service's own words: what it told, and its reasons (forbidden, …) parted by blanks."""
    message, told = str(error.message), list(error.errors or ())
    # The library writes the whole request before what was answered (google-api-core 2).
    message = re.sub(r"^[A-Z]+ https?://\S+: ", "", message)
    if not told and error.response is not None:
        # After an upload the library keeps the answer, but does not read it (3.17).
        try:
            body = error.response.json()["error"]
            message, told = str(body["message"]), list(body.get("errors") or ())
        except (ValueError, KeyError, TypeError):
            return message, ""
    return message, " ".join(str(each.get("reason", "")) for each in told if isinstance(each, dict))


def _changed_on_the_way(said: str) -> str:
    """What bucket or library say of bytes whose checksum is another one; "" when of other things.

    Both give the sender's checksum first: Provided CRC32C "…" doesn't match calculated CRC32C "…".
    """
    sums = re.findall(r"[A-Za-z0-9+/]{6}==", said) if "crc32c" in said.lower() else []
    if len(sums) != 2:
        return ""
    return f"The bytes changed on the way: sent with crc32c {sums[0]}, arrived with {sums[1]}."


def _refused(what: str, error: Any) -> SlipwayError:  # noqa: ANN401 (the library has no types)
    """The error for an answer of the bucket that is a refusal."""
    said, reasons = _said(error)
    why, status = one_line(said), int(error.code or 0)
    if status == 507 or (status == 403 and "quota" in reasons.lower()):
        return Denied(
            f"{what} It takes no more.",
            why=why,
            fix="Have its quota raised, or remove packages that no release names. Then publish"
            " again: only what is missing is sent.",
        )
    match status:
        case 401:
            return Denied(what, why=why, fix=_LOG_IN)
        case 403:
            return Denied(what, why=why, fix=_ROLES)
        case 404:
            fix = "Create it (gcloud storage buckets create), or correct `bucket` of the target."
            return NotFound(what, why=f"There is no such bucket; it answered: {why}.", fix=fix)
        case 400:
            changed = _changed_on_the_way(said)
            return Unreachable(what, why=changed or f"It refused the request: {why}", fix=_AGAIN)
        case _:
            return Unreachable(what, why=why, fix=_AGAIN)


class _Sent:
    """Counts bytes that are in the bucket, for the report."""

    def __init__(self, manifest: Manifest, report: Report) -> None:
        self._total = manifest.size_bytes or 1
        self._count = len(manifest.files)
        self._report = report
        self._bytes = 0
        self._files = 0
        self._lock = threading.Lock()

    def add(self, file: PackagedFile) -> None:
        with self._lock:
            self._bytes += file.size_bytes
            self._files += 1
            line = f"{self._files} of {self._count} files, {self._bytes} of {self._total} bytes"
            self._report(line, self._bytes / self._total)


def _must_equal(name: str, file: PackagedFile, size_bytes: int, crc32c: str) -> None:
    if (size_bytes, crc32c) != (file.size_bytes, file.crc32c):
        raise NotDeployable(
            f"{one_line(name)} holds other bytes. Nothing was overwritten.",
            why=f"There: {size_bytes} bytes, crc32c {crc32c}; here: {file.size_bytes} bytes,"
            f" crc32c {file.crc32c}.",
            fix="Find out who writes to this prefix; Slipway never overwrites a package.",
        )
