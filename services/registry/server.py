"""The way to a registry behind a tracking server: MLflow's REST interface, read as plain JSON.

MLflow's own client turns every row into protobuf messages and entities, which costs more than the
request; here JSON goes straight into domain values. Authentication, TLS settings and header
providers are MLflow's own (`http_request`), so its environment variables work as they do elsewhere.
Read against MLflow 3.17.2.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import orjson
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from urllib3.exceptions import HTTPError

from services.domain import Finding, Json, ModelVersion, RegisteredModel, Verdict, VersionRef
from services.errors import ConfigError, Denied, NotFound, SlipwayError, Unreachable, one_line
from services.network import network_cause
from services.registry.bounded import Deadline, within
from services.registry.facts import (
    PROMPT_TAG,
    RunFacts,
    metric_value,
    no_such_model,
    no_such_version,
    utc,
    version_from,
)

_API = "/api/2.0/mlflow"
_FILES = "/api/2.0/mlflow-artifacts/artifacts"

_PAGE_VERSIONS = 1_000
"""Versions per request, about 0.5 MB; the budget is one call per 1,000 (performance.md, row 9)."""
_PAGE_MODELS = 1_000  # MLflow 3.17.2 refuses more
_PAGE_RUNS = 500  # performance.md: runs by run_id IN (≤ 500)
_PAGE_EXPERIMENTS = 5_000
_PARALLEL_RUNS = 2
"""Batches of runs under way at once; a tracking server spends its time in Python, core by core."""
_LATE_FACTOR = 5
"""A small request may take this many times the allowed silence: the bound for one that drips."""
_LATE_FACTOR_LISTS = 10
"""So may a list with all its pages: 40 s by default. A busy one-worker server was seen to take 25 s
for 10,000 versions with their runs."""
_ANSWER_BYTES = 256 * 2**20
_CHUNK_BYTES = 1 << 18
_FILE_SILENCE_S = 30.0
"""A server that proxies a bucket fetches a whole file from there before it sends the first byte."""
_SLOWEST_BYTES_PER_S = 256 * 1024


class _Body(Protocol):
    def read1(self, amt: int, *, decode_content: bool) -> bytes: ...


class _Response(Protocol):
    """The little that is used of the answer of `requests`."""

    status_code: int
    raw: _Body

    def close(self) -> None: ...


class Server:
    """A tracking server at an http(s) address. Implements Wire."""

    def __init__(self, uri: str, timeout_s: float) -> None:
        parts = urlsplit(uri)
        if not parts.hostname:
            raise ConfigError(
                "The registry's address names no host.",
                why=f"It reads {one_line(_without_credentials(uri))!r}.",
                fix="Write it as http://HOST:PORT in MLFLOW_TRACKING_URI or slipway.toml.",
            )
        self._uri = uri.rstrip("/")
        self._timeout_s = timeout_s
        self._experiments: tuple[str, ...] = ()
        self._counts: dict[str, tuple[object, int]] = {}
        self.where = _without_credentials(self._uri)
        self.netloc = parts.netloc.rpartition("@")[2]

    # ── one request ───────────────────────────────────────────────────────────────────────────

    def deadline(self) -> Deadline:
        """The time that one public call may take in all, however many pages it reads."""
        return Deadline(self._timeout_s * _LATE_FACTOR_LISTS)

    def _late(self, seconds: float) -> Unreachable:
        return Unreachable(
            f"The registry at {self.where} is too slow.",
            why=f"Its answer was not complete after {seconds:g} s.",
            fix="Look at the server's load and network (`slipway doctor`), then try again.",
        )

    def _call(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        missing: NotFound | None = None,
        patient: bool = False,
    ) -> Json:
        """One request; its JSON object. `missing` is raised when the server knows no such thing.

        `patient` is for long lists, from a server that has just answered something small: silence
        may then last as long as the deadline, where a dead server is told by the small call.
        """
        own = Deadline(
            deadline.left_s if patient else min(deadline.left_s, self._timeout_s * _LATE_FACTOR)
        )
        silence_s = max(own.seconds, 0.1) if patient else self._timeout_s
        status, content = within(
            own.left_s,
            lambda: self._send(method, path, own, silence_s, params=params, body=body),
            lambda: self._late(own.seconds),
        )
        return self._judged(status, content, missing)

    def _send(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        silence_s: float,
        *,
        params: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
    ) -> tuple[int, bytes]:
        content = bytearray()
        with (
            self._translated(silence_s),
            closing(self._open(method, path, silence_s, params=params, json=body)) as response,
        ):
            for chunk in self._chunks(response, deadline):
                content += chunk
                if len(content) > _ANSWER_BYTES:
                    raise self._strange(f"It sent more than {_ANSWER_BYTES >> 20} MiB.")
            return int(response.status_code), bytes(content)

    def _open(self, method: str, path: str, silence_s: float, **extra: object) -> _Response:
        try:
            credentials = get_default_host_creds(self._uri)
        except MlflowException as error:
            raise ConfigError(
                f"The credentials for the registry at {self.where} do not fit together.",
                why=one_line(error.message),
                fix="Set either MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD.",
            ) from error
        response: _Response = http_request(
            credentials,
            path,
            method,
            max_retries=0,  # MLflow's 7 retries of 120 s each are minutes on a dead server
            timeout=(self._timeout_s, silence_s),  # to connect, between packets
            raise_on_status=False,
            allow_redirects=False,  # a login page is no registry, and gets no credentials
            stream=True,
            **extra,
        )
        return response

    def _chunks(self, response: _Response, deadline: Deadline) -> Iterator[bytes]:
        """What arrives, as it arrives: `read1` returns after each packet, `read` waits for all."""
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            yield chunk
            if deadline.passed:
                raise self._late(deadline.seconds)

    @contextmanager
    def _translated(self, silence_s: float) -> Iterator[None]:
        """The one door for errors of the network."""
        try:
            yield
        except (MlflowException, HTTPError, OSError) as error:
            raise Unreachable(
                f"The registry at {self.where} did not answer.",
                why=network_cause(error, silence_s),
                fix="Start it, or correct MLFLOW_TRACKING_URI or [registry] in slipway.toml.",
            ) from error

    def _strange(self, why: str) -> Unreachable:
        return Unreachable(
            f"What answers at {self.where} is no MLflow registry.",
            why=why,
            fix="Check the address (MLFLOW_TRACKING_URI), and any proxy or login page before it.",
        )

    def _judged(self, status: int, content: bytes, missing: NotFound | None) -> Json:
        answer: Json
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        answer = answer if isinstance(answer, dict) else None
        code = str(answer.get("error_code", "")) if answer else ""
        said = one_line(answer.get("message", "")) if answer else ""
        if status in (401, 403) or code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            raise Denied(
                f"The registry at {self.where} refused access.",
                why=f"It answered {status}{f': {said}' if said else ''}.",
                fix="Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, for an account that may read models.",
            )
        absent = code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        if absent and missing is not None:
            raise missing
        if status in (502, 503, 504, 429) or (status >= 500 and answer is None):
            raise Unreachable(
                f"The registry at {self.where} is not working.",
                why=f"It answered {status}.",
                fix="Look at the server's own log, then try again.",
            )
        if 300 <= status < 400:
            raise self._strange(f"It redirects elsewhere ({status}), as a login page does.")
        if status != 200:
            raise Unreachable(
                f"The registry at {self.where} could not do it.",
                why=f"It answered {status}{f': {code} {said}' if said else ''}.",
                fix="Look at the server's own log; its MLflow may be too old for this call.",
            )
        if answer is None:
            kind = "a web page" if content.lstrip()[:1] == b"<" else "something that is no JSON"
            raise self._strange(f"It answered 200 with {kind} ({len(content)} bytes).")
        return answer

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """JSON of a strange shape is an answer that is no registry's, not a crash of ours."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._strange(
                f"An answer has an unknown shape ({type(error).__name__})."
            ) from error

    def _pages(
        self,
        path: str,
        field: str,
        params: Mapping[str, Any],
        deadline: Deadline,
        *,
        limit: int | None = None,
        patient: bool = False,
    ) -> Iterator[Json]:
        token = ""
        given = 0
        while True:
            asked = {**params, **({"page_token": token} if token else {})}
            answer = self._call("GET", path, deadline, params=asked, patient=patient)
            with self._reading():
                rows = list(answer.get(field) or ())
            yield from rows
            given += len(rows)
            token = str(answer.get("next_page_token") or "")
            if not token or not rows or (limit is not None and given >= limit):
                return

    # ── registered models ─────────────────────────────────────────────────────────────────────

    def models(self) -> Sequence[RegisteredModel]:
        """Every registered model; the counts cost one scan, later only what changed.

        A count that takes too long is left out (None): it must not cost the list.
        """
        deadline = self.deadline()
        pages = self._pages(
            f"{_API}/registered-models/search",
            "registered_models",
            {"max_results": _PAGE_MODELS},
            deadline,
        )
        with self._reading():
            rows = [row for row in pages if _tags(row).get(PROMPT_TAG) != "true"]
            highest = {
                # one row per stage: the highest of them is the highest of all
                str(row["name"]): max(
                    (int(entry["version"]) for entry in row.get("latest_versions") or ()),
                    default=None,
                )
                for row in rows
            }
            stamps = {
                str(row["name"]): (row.get("last_updated_timestamp"), highest[str(row["name"])])
                for row in rows
            }
            try:
                counts = self._version_counts(stamps, deadline)
            except Unreachable:
                counts = {}
            found = [
                RegisteredModel(
                    name=str(row["name"]),
                    description=str(row.get("description") or ""),
                    tags=_tags(row),
                    aliases=_aliases(row),
                    latest_number=highest[str(row["name"])],
                    version_count=counts.get(str(row["name"])),
                    created_at=utc(row.get("creation_timestamp")),
                    updated_at=utc(row.get("last_updated_timestamp")),
                )
                for row in rows
            ]
        return sorted(found, key=lambda model: model.name)

    def _version_counts(
        self, stamps: Mapping[str, tuple[object, int | None]], deadline: Deadline
    ) -> Mapping[str, int]:
        """Versions by model. MLflow has no count, so rows are counted: all of them the first time.

        Registering or deleting a version moves its model's `last_updated_timestamp`; a count stays
        true as long as that stands still (mlflow 3.17.2, sqlalchemy_store.py, create_model_version
        and delete_model_version).
        """
        kept = self._counts
        known = {
            name: kept[name][1] if highest is not None else 0
            for name, (stamp, highest) in stamps.items()
            if highest is None or kept.get(name, ("", 0))[0] == (stamp, highest)
        }
        stale = stamps.keys() - known.keys()
        if len(stale) <= 2:  # a call each; more are cheaper in one scan
            known |= {name: len(self._versions(name, None, deadline)) for name in stale}
        else:
            everything = self._pages(
                f"{_API}/model-versions/search",
                "model_versions",
                {"max_results": _PAGE_VERSIONS, "order_by": ["name ASC", "version_number DESC"]},
                deadline,
                patient=True,
            )
            counted = Counter(str(row["name"]) for row in everything)
            known |= {name: counted[name] for name in stale}
        # Replaced, never edited: other threads may be reading it.
        self._counts = {name: (stamps[name], count) for name, count in known.items()}
        return known

    def aliases(self, model: str) -> Mapping[str, int]:
        """Alias → number from the registered model: searches return none."""
        answer = self._call(
            "GET",
            f"{_API}/registered-models/get",
            self.deadline(),
            params={"name": model},
            missing=no_such_model(model, self.where),
        )
        with self._reading():
            row = answer["registered_model"]
            if _tags(row).get(PROMPT_TAG) == "true":
                raise no_such_model(model, self.where)
            return _aliases(row)

    def set_alias(self, model: str, alias: str, number: int) -> None:
        """Point an alias at a version: one POST."""
        self._call(
            "POST",
            f"{_API}/registered-models/alias",
            self.deadline(),
            body={"name": model, "alias": alias, "version": str(number)},
            missing=no_such_version(VersionRef(model, number), self.where),
        )

    # ── versions and runs ─────────────────────────────────────────────────────────────────────

    def versions(self, model: str, limit: int | None = None) -> Sequence[ModelVersion]:
        """Versions, highest number first: one call per page."""
        return self._versions(model, limit, self.deadline())

    def _versions(
        self, model: str, limit: int | None, deadline: Deadline
    ) -> Sequence[ModelVersion]:
        asked = {
            "filter": name_filter(model),
            "max_results": min(limit or _PAGE_VERSIONS, _PAGE_VERSIONS),
            "order_by": ["version_number DESC"],
        }
        rows = self._pages(
            f"{_API}/model-versions/search",
            "model_versions",
            asked,
            deadline,
            limit=limit,
            patient=True,
        )
        with self._reading():
            # The filter may be wider than the name (name_filter); equality is decided here.
            found = [version_from(row, _tags(row)) for row in rows if row["name"] == model]
        return found[:limit]

    def version(self, ref: VersionRef) -> ModelVersion:
        """One version: one call."""
        answer = self._call(
            "GET",
            f"{_API}/model-versions/get",
            self.deadline(),
            params={"name": ref.model, "version": str(ref.number)},
            missing=no_such_version(ref, self.where),
        )
        with self._reading():
            row = answer["model_version"]
            return version_from(row, _tags(row))

    def runs(self, run_ids: Collection[str]) -> Mapping[str, RunFacts]:
        """Runs in batches of 500, a few at a time; experiments are listed once and remembered."""
        wanted = sorted({run_id for run_id in run_ids if run_id.isalnum()})
        if not wanted:
            return {}
        deadline = self.deadline()
        known = bool(self._experiments)
        if not known:
            self._experiments = self._all_experiments(deadline)
        found = self._searched(wanted, deadline)
        if known and len(found) < len(wanted):
            # Deleted for ever, or in an experiment that is younger than our list.
            before, self._experiments = self._experiments, self._all_experiments(deadline)
            if set(self._experiments) - set(before):
                left = [run_id for run_id in wanted if run_id not in found]
                found |= self._searched(left, deadline)
        return found

    def _all_experiments(self, deadline: Deadline) -> tuple[str, ...]:
        ids: list[str] = []
        token = ""
        while True:
            answer = self._call(
                "POST",
                f"{_API}/experiments/search",
                deadline,
                body={"max_results": _PAGE_EXPERIMENTS, "view_type": "ALL", "page_token": token},
            )
            with self._reading():
                ids += [str(row["experiment_id"]) for row in answer.get("experiments") or ()]
            token = str(answer.get("next_page_token") or "")
            if not token:
                return tuple(ids)

    def _searched(self, run_ids: Sequence[str], deadline: Deadline) -> dict[str, RunFacts]:
        def batch(chunk: Sequence[str]) -> Json:
            among = ", ".join(f"'{run_id}'" for run_id in chunk)
            return self._call(
                "POST",
                f"{_API}/runs/search",
                deadline,
                body={
                    "experiment_ids": self._experiments,
                    "filter": f"attributes.run_id IN ({among})",
                    "run_view_type": "ALL",
                    "max_results": _PAGE_RUNS,
                },
                patient=True,
            )

        chunks = [run_ids[i : i + _PAGE_RUNS] for i in range(0, len(run_ids), _PAGE_RUNS)]
        found: dict[str, RunFacts] = {}
        with ThreadPoolExecutor(_PARALLEL_RUNS, "slipway-registry-runs") as pool:
            for answer in pool.map(batch, chunks):
                with self._reading():
                    for row in answer.get("runs") or ():
                        info, kept = row["info"], row.get("data") or {}
                        found[str(info["run_id"])] = RunFacts(
                            experiment_id=str(info.get("experiment_id") or ""),
                            deleted=info.get("lifecycle_stage") == "deleted",
                            artifact_uri=str(info.get("artifact_uri") or ""),
                            metrics={
                                str(m["key"]): metric_value(m.get("value", "nan"))
                                for m in kept.get("metrics") or ()
                            },
                            params={
                                str(p["key"]): str(p.get("value", ""))
                                for p in kept.get("params") or ()
                            },
                        )
        return found

    def run_url(self, run_id: str, run: RunFacts) -> str | None:
        """The run's page; both ids are quoted, since a server may send anything."""
        experiment = quote(run.experiment_id, safe="")
        return f"{self.where}/#/experiments/{experiment}/runs/{quote(run_id, safe='')}"

    # ── places and files ──────────────────────────────────────────────────────────────────────

    def storage_uri(self, ref: VersionRef) -> str:
        """Where the files are, as the server resolves it."""
        answer = self._call(
            "GET",
            f"{_API}/model-versions/get-download-uri",
            self.deadline(),
            params={"name": ref.model, "version": str(ref.number)},
            missing=no_such_version(ref, self.where),
        )
        return str(answer.get("artifact_uri") or "")

    def artifact_roots(self) -> Sequence[str]:
        """The folder that holds the default experiment's artifacts, when that is no local path.

        A path of the server's own disk is never trusted: it would name a folder of *this* machine.
        """
        try:
            answer = self._call(
                "GET",
                f"{_API}/experiments/get",
                self.deadline(),
                params={"experiment_id": "0"},
                missing=NotFound("There is no default experiment."),
            )
        except NotFound:
            return ()
        with self._reading():
            location = str(answer["experiment"]["artifact_location"])
        if urlsplit(location).scheme in ("", "file"):
            return ()
        return (location.rstrip("/").rpartition("/")[0] or location,)

    def list_files(self, path: str, deadline: Deadline) -> Sequence[tuple[str, bool, int]]:
        """One folder of the artifact proxy: (name, is a folder, size in bytes). NotFound."""
        answer = self._call(
            "GET",
            _FILES,
            deadline,
            params={"path": path},
            missing=NotFound("There are no files."),
        )
        with self._reading():
            return [
                (str(row["path"]), bool(row.get("is_dir")), int(row.get("file_size") or 0))
                for row in answer.get("files") or ()
            ]

    def read_file(self, path: str, limit_bytes: int, deadline: Deadline) -> bytes:
        """One file of the artifact proxy, at most `limit_bytes`. NotFound when larger or gone."""
        content = bytearray()
        for chunk in self._file_chunks(path, limit_bytes, deadline):
            content += chunk
        return bytes(content)

    def save_file(self, path: str, into: Path, size_bytes: int) -> None:
        """Copy one file of the artifact proxy to `into`; not one byte more than was announced."""
        deadline = Deadline(self._timeout_s * _LATE_FACTOR + size_bytes / _SLOWEST_BYTES_PER_S)
        with into.open("xb") as file:
            for chunk in self._file_chunks(path, size_bytes, deadline):
                file.write(chunk)

    def _file_chunks(self, path: str, limit_bytes: int, deadline: Deadline) -> Iterator[bytes]:
        silence_s = max(self._timeout_s, _FILE_SILENCE_S)

        def opened() -> _Response:
            with self._translated(silence_s):
                return self._open("GET", f"{_FILES}/{quote(path)}", silence_s)

        response = within(deadline.left_s, opened, lambda: self._late(deadline.seconds))
        seen = 0
        with self._translated(silence_s), closing(response):
            if response.status_code != 200:
                said = response.raw.read1(_CHUNK_BYTES, decode_content=True)
                missing = NotFound(f"There is no file {one_line(path)!r}.")
                self._judged(int(response.status_code), said, missing)
            for chunk in self._chunks(response, deadline):
                seen += len(chunk)
                if seen > limit_bytes:
                    raise self._strange(f"A file is larger than the {limit_bytes} bytes announced.")
                yield chunk

    # ── health ────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Sequence[Finding]:
        """Reachable, version, transport."""
        started = time.monotonic()
        self._call(
            "GET", f"{_API}/registered-models/search", self.deadline(), params={"max_results": 1}
        )
        took_ms = (time.monotonic() - started) * 1000
        findings = [
            Finding(
                "registry",
                Verdict.PASS,
                f"MLflow {self._version()} at {self.where} answered in {took_ms:.0f} ms.",
            )
        ]
        if urlsplit(self._uri).scheme == "http" and not _is_loopback(self._uri):
            findings.append(
                Finding(
                    "registry transport",
                    Verdict.WARN,
                    f"{self.where} is reached without TLS: tokens and models travel in clear.",
                    "Put TLS before the tracking server and use its https address.",
                )
            )
        return findings

    def _version(self) -> str:
        """The server's MLflow version; "of an unknown version" when it does not say."""
        deadline = self.deadline()
        try:
            status, content = within(
                deadline.left_s,
                lambda: self._send(
                    "GET", "/version", deadline, self._timeout_s, params=None, body=None
                ),
                lambda: self._late(deadline.seconds),
            )
        except SlipwayError:
            return "of an unknown version"
        text = content[:40].decode("ascii", "replace").strip()
        plain = status == 200 and text[:1].isdigit() and len(content) < 40
        return text if plain else "of an unknown version"


def name_filter(name: str) -> str:
    """A version filter for exactly this name, or a wider one where MLflow's syntax cannot say it.

    The filter language has no escapes: a value ends at the next quote of its own kind (mlflow
    3.17.2, utils/search_utils.py, `_strip_quotes`). A name with both kinds is asked for by LIKE
    with `_` in place of every character that is not plainly harmless.
    """
    if "'" not in name and "\\" not in name:
        return f"name = '{name}'"
    if '"' not in name and "\\" not in name:
        return f'name = "{name}"'
    return "name LIKE '{}'".format("".join(c if c.isalnum() or c in " .-" else "_" for c in name))


def _tags(row: Json) -> dict[str, str]:
    return {str(tag["key"]): str(tag.get("value") or "") for tag in row.get("tags") or ()}


def _aliases(row: Json) -> dict[str, int]:
    return {str(a["alias"]): int(a["version"]) for a in row.get("aliases") or ()}


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _is_loopback(uri: str) -> bool:
    host = urlsplit(uri).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
