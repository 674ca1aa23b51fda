"""The registry: what MLflow knows about models, versions, runs and their files.

The only place that knows MLflow (with the demo that fills it). It says what is registered; it
decides nothing about deploying. `server` is the way over HTTP, `database` the way by SQL; `files`
confines and copies; `mlmodel` reads what the files say. MLflow itself is imported only where HTTP
or a write needs it, because that takes 5 s: a registry in a database is browsed without.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from services.domain import (
    LATEST,
    AliasRef,
    FileEntry,
    Finding,
    ModelVersion,
    RegisteredModel,
    Verdict,
    VersionDetails,
    VersionRef,
)
from services.errors import ConfigError, NotFound, SlipwayError, one_line
from services.ports import Report, no_report
from services.registry.facts import (
    Wire,
    by_number,
    joined,
    no_such_model,
    no_such_version,
)
from services.registry.files import Caps, Files, Roots, copy_all, place
from services.registry.mlmodel import EXAMPLE, READ, SERVING_EXAMPLE, details_from

_READ_LIMIT_BYTES = 4 * 2**20
"""A larger MLmodel is none that a person or a form could use."""
_EXAMPLE_LIMIT_BYTES = 2**20
"""The example travels in every release as its test inference."""
_DETAILS_KEPT = 512

# mlflow 3.17.2, utils/validation.py: ^[\w\-]*$ (which lets a trailing newline pass), ≤ 255
# characters, and neither "latest" nor v1, v2, …
_ALIAS = re.compile(r"[\w-]{1,255}", re.ASCII)
# mlflow 3.17.2 forbids "/" and ":"; PostgreSQL takes no NUL, and nothing takes lone surrogates.
_STORABLE = re.compile("[^/:\0\ud800-\udfff]+")
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)


class MlflowRegistry:
    """MLflow at a tracking URI: http(s), sqlite, postgresql or mysql. Implements ports.Registry.

    `timeout_s` bounds the silence of one request; it may take five times as long, a list ten times.
    `allowed_roots` are folders and bucket prefixes from which versions may be taken besides those
    that the registry itself hands out. `max_files` and `max_bytes` cap one version.
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        timeout_s: float = 4.0,
        allowed_roots: Sequence[str] = (),
        max_files: int = 10_000,
        max_bytes: int = 20 * 2**30,
    ) -> None:
        self._timeout_s = timeout_s
        self._allowed = tuple(allowed_roots)
        self._caps = Caps(max_files, max_bytes)
        self._handed_out: tuple[str, ...] | None = None
        self._details: OrderedDict[str, VersionDetails] = OrderedDict()
        self._lock = threading.Lock()
        self._server = None
        if urlsplit(tracking_uri).scheme in ("http", "https"):
            from services.registry.server import Server

            self._server = Server(tracking_uri, timeout_s)
            self._wire: Wire = self._server
        else:
            from services.registry.database import Database

            self._wire = Database(tracking_uri, timeout_s)

    # ── what is registered ────────────────────────────────────────────────────────────────────

    def models(self) -> Sequence[RegisteredModel]:
        """Every registered model, by name, aliases and counts complete."""
        return self._wire.models()

    def versions(self, model: str) -> Sequence[ModelVersion]:
        """Every version, newest first: 2 + ⌈N/1000⌉ + ⌈runs/500⌉ calls at most. NotFound."""
        aliases = by_number(self._aliases(model))
        found = self._wire.versions(model)
        runs = self._wire.runs({version.run_id for version in found if version.run_id})
        return [joined(version, aliases, runs, self._wire) for version in found]

    def version(self, ref: VersionRef | AliasRef) -> ModelVersion:
        """One version by number or alias. NotFound says which aliases there are."""
        aliases = self._aliases(ref.model)
        if isinstance(ref, VersionRef):
            found = self._wire.version(ref)
        elif ref.alias.lower() == LATEST:
            newest = self._wire.versions(ref.model, limit=1)
            if not newest:
                raise NotFound(
                    f"{one_line(ref.model, 80)} has no versions yet.",
                    why="A registered model can be empty.",
                    fix="Register a version with MLflow, or choose another model.",
                )
            found = newest[0]
        else:
            number = aliases.get(ref.alias)
            if number is None:
                there = ", ".join(sorted(aliases)) or "none"
                raise NotFound(
                    f"{one_line(ref.model, 80)} has no alias {one_line(ref.alias, 80)}.",
                    why=f"Its aliases: {one_line(there)}.",
                    fix="Choose one of them, a number, or @latest.",
                )
            found = self._wire.version(VersionRef(ref.model, number))
        runs = self._wire.runs({found.run_id}) if found.run_id else {}
        return joined(found, by_number(aliases), runs, self._wire)

    def _aliases(self, model: str) -> Mapping[str, int]:
        """Alias → number; NotFound at once for what no registry can hold, and no store takes."""
        if not _STORABLE.fullmatch(model):
            raise no_such_model(model, self._wire.where)
        return self._wire.aliases(model)

    def set_alias(self, alias: AliasRef, number: int) -> None:
        """Point an alias at a version. NotFound; ConfigError for a name that MLflow forbids."""
        if not _ALIAS.fullmatch(alias.alias) or _RESERVED_ALIAS.fullmatch(alias.alias):
            raise ConfigError(
                f"{one_line(alias.alias, 80)!r} cannot be an alias.",
                why="MLflow takes letters, digits, _ and -, and keeps latest, v1, v2, … to itself.",
                fix="Choose a name such as champion.",
            )
        if number < 1:
            raise no_such_version(VersionRef(alias.model, number), self._wire.where)
        self._aliases(alias.model)  # says whether it is the model or the number that is unknown
        self._wire.set_alias(alias.model, alias.alias, number)

    # ── what the files say ────────────────────────────────────────────────────────────────────

    def details(self, ref: VersionRef) -> VersionDetails:
        """What the version's files say, read once: files of a version do not change. NotFound."""
        uri = self._storage_uri(ref)
        with self._lock:
            if uri in self._details:
                self._details.move_to_end(uri)
                return dataclasses.replace(self._details[uri], ref=ref)
        contents: dict[str, bytes] = {}
        entries: Sequence[FileEntry] = ()
        problems: list[str] = []
        try:
            files = self._files(uri, ref)
            entries = files.entries(self._caps)
            contents = self._contents(files, entries, problems)
        except SlipwayError as error:  # gone, refused or out of reach: a fact about this version
            problems.append(" ".join(part for part in (error.what, error.why) if part))
        found = details_from(ref, contents, entries, problems)
        if not problems:
            with self._lock:
                self._details[uri] = found
                while len(self._details) > _DETAILS_KEPT:
                    self._details.popitem(last=False)
        return found

    def _contents(
        self, files: Files, entries: Sequence[FileEntry], problems: list[str]
    ) -> dict[str, bytes]:
        sizes = {entry.path: entry.size_bytes for entry in entries}
        contents: dict[str, bytes] = {}
        for name in READ:
            if name not in sizes or (name == EXAMPLE and SERVING_EXAMPLE in contents):
                continue
            limit = (
                _EXAMPLE_LIMIT_BYTES if name in (SERVING_EXAMPLE, EXAMPLE) else _READ_LIMIT_BYTES
            )
            if sizes[name] > limit:
                problems.append(f"Its {name} is not read: {sizes[name]:,} bytes are too many.")
            else:
                contents[name] = files.read(name, limit)
        return contents

    def download(self, ref: VersionRef, into: Path, report: Report = no_report) -> None:
        """Copy the files into the empty folder `into`, all or none. NotDeployable, NotFound."""
        if into.exists() and any(into.iterdir()):
            raise ConfigError(
                f"{into} is not empty.", why="A version is copied into an empty folder."
            )
        report("looking for the files", None)
        files = self._files(self._storage_uri(ref), ref)
        copy_all(files, into, ref, self._caps, report)

    def _storage_uri(self, ref: VersionRef) -> str:
        if not _STORABLE.fullmatch(ref.model):
            raise no_such_version(ref, self._wire.where)
        return self._wire.storage_uri(ref)

    def _files(self, uri: str, ref: VersionRef) -> Files:
        return place(uri, self._roots, ref, self._server, self._timeout_s)

    def _roots(self) -> Roots:
        # Asked anew for a database, where it is one cheap query: experiments come and go.
        if self._handed_out is None or self._server is None:
            self._handed_out = tuple(self._wire.artifact_roots())
        return Roots(self._allowed, self._handed_out)

    # ── health ────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Sequence[Finding]:
        """Reachable, which version, which store, and whether artifacts can be reached."""
        try:
            return [*self._wire.check(), self._artifact_check()]
        except SlipwayError as error:
            detail = " ".join(part for part in (error.what, error.why) if part)
            return [Finding("registry", Verdict.FAIL, detail, error.fix)]

    def _artifact_check(self) -> Finding:
        """Whether the files of one version, the newest of a model, can be listed."""
        name = "registry artifacts"
        # The one that changed last is the one that people are about to deploy.
        models = sorted(self._wire.models(), key=lambda model: str(model.updated_at), reverse=True)
        for model in models:
            newest = self._wire.versions(model.name, limit=1)
            if not newest:
                continue
            ref = newest[0].ref
            try:
                files = self._files(self._wire.storage_uri(ref), ref).entries(self._caps)
            except SlipwayError as error:
                detail = " ".join(part for part in (error.what, error.why) if part)
                return Finding(name, Verdict.WARN, detail, error.fix)
            return Finding(
                name, Verdict.PASS, f"The {len(files)} files of {one_line(ref, 90)} can be listed."
            )
        return Finding(name, Verdict.SKIP, "There is no version yet whose files could be listed.")


__all__ = ["MlflowRegistry"]
