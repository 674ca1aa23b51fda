"""What both ways to a registry have in common: their protocol, and pure rules on what they give.

A wire gives domain values in MLflow's order, numbers as ints, times in UTC. It knows nothing of
caches, files or joins.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from services.domain import (
    Finding,
    ModelVersion,
    RegisteredModel,
    Registration,
    VersionRef,
)
from services.errors import NotFound, one_line

PROMPT_TAG = "mlflow.prompt.is_prompt"
"""MLflow keeps prompts in the tables of registered models; this tag, "true", tells them apart."""

# mlflow 3.17.2, entities/model_registry/model_version_status.py
_REGISTRATION = {
    "READY": Registration.READY,
    "PENDING_REGISTRATION": Registration.PENDING,
    "FAILED_REGISTRATION": Registration.FAILED,
}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run says about the versions that were registered from it."""

    experiment_id: str
    deleted: bool
    artifact_uri: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]


class Wire(Protocol):
    """One way to reach a registry. Every method may raise Unreachable and Denied."""

    where: str
    """The registry's address without credentials, for messages."""

    def models(self) -> Sequence[RegisteredModel]:
        """Every registered model with latest number and version count, prompts left out."""

    def aliases(self, model: str) -> Mapping[str, int]:
        """Alias → number, complete. NotFound when there is no such model."""

    def versions(self, model: str, limit: int | None = None) -> Sequence[ModelVersion]:
        """Versions, highest number first, without run data and aliases; empty for no model."""

    def version(self, ref: VersionRef) -> ModelVersion:
        """One version, without run data and aliases. NotFound."""

    def runs(self, run_ids: Collection[str]) -> Mapping[str, RunFacts]:
        """The runs that still have a record, deleted ones too, by id."""

    def run_url(self, run_id: str, run: RunFacts) -> str | None:
        """The run's page in MLflow's own UI."""

    def storage_uri(self, ref: VersionRef) -> str:
        """Where the registry says that the version's files are, resolved. NotFound."""

    def artifact_roots(self) -> Sequence[str]:
        """Places below which this registry itself puts artifacts."""

    def set_alias(self, model: str, alias: str, number: int) -> None:
        """Point an alias at a version. NotFound."""

    def check(self) -> Sequence[Finding]:
        """What Health shows about the way itself."""


def utc(milliseconds: object) -> datetime | None:
    """MLflow's milliseconds since 1970 as an aware datetime; None when there is no such time."""
    if milliseconds is None or milliseconds == "":
        return None
    try:
        return datetime.fromtimestamp(int(str(milliseconds)) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def metric_value(value: object) -> float:
    """A metric as a float; NaN when it is none."""
    try:
        return float(str(value)) if not isinstance(value, float | int) else float(value)
    except ValueError:
        return math.nan


def model_id_of(source: str) -> str | None:
    """The logged model behind a source such as `models:/m-0f3…`; None for other sources."""
    head, _, rest = source.partition("models:/")
    return rest if not head and rest.startswith("m-") and "/" not in rest else None


def version_from(fields: Mapping[str, Any], tags: Mapping[str, str]) -> ModelVersion:
    """A version from a registry's own fields, without run data. ValueError for a strange number."""
    number = int(fields["version"])
    source = str(fields.get("source") or "")
    registration = _REGISTRATION.get(str(fields.get("status") or "READY"), Registration.PENDING)
    message = str(fields.get("status_message") or "")
    problems: list[str] = []
    if registration is Registration.PENDING:
        problems.append("Its registration has not finished; it cannot be deployed yet.")
    elif registration is Registration.FAILED:
        because = f": {one_line(message)}" if message else ""
        problems.append(f"Its registration failed{because}.")
    if not source:
        problems.append("It has no source: the registry does not say where its files are.")
    return ModelVersion(
        ref=VersionRef(str(fields["name"]), number),
        source=source,
        registration=registration,
        registration_message=message,
        run_id=str(fields["run_id"]) if fields.get("run_id") else None,
        model_id=model_id_of(source),
        author=str(fields.get("user_id") or ""),
        description=str(fields.get("description") or ""),
        tags=tags,
        created_at=utc(fields.get("creation_timestamp")),
        updated_at=utc(fields.get("last_updated_timestamp")),
        problems=tuple(problems),
    )


def joined(
    version: ModelVersion,
    aliases_by_number: Mapping[int, tuple[str, ...]],
    runs: Mapping[str, RunFacts],
    wire: Wire,
) -> ModelVersion:
    """The version with its aliases and what its run says; a run that is gone is a problem."""
    aliases = aliases_by_number.get(version.ref.number, ())
    if version.run_id is None:
        gap = "It was registered without a run, so it has no metrics and parameters."
        return dataclasses.replace(version, aliases=aliases, problems=(*version.problems, gap))
    run = runs.get(version.run_id)
    if run is None:
        gap = f"Its run {one_line(version.run_id, 64)} no longer exists, nor do its metrics."
        return dataclasses.replace(version, aliases=aliases, problems=(*version.problems, gap))
    problems = version.problems
    if run.deleted:
        problems = (*problems, f"Its run {one_line(version.run_id, 64)} was deleted.")
    return dataclasses.replace(
        version,
        aliases=aliases,
        run_url=wire.run_url(version.run_id, run),
        metrics=run.metrics,
        params=run.params,
        problems=problems,
    )


def by_number(aliases: Mapping[str, int]) -> dict[int, tuple[str, ...]]:
    """Alias → number turned round: number → its aliases by name."""
    turned: dict[int, tuple[str, ...]] = {}
    for alias in sorted(aliases):
        turned[aliases[alias]] = (*turned.get(aliases[alias], ()), alias)
    return turned


def no_such_model(model: str, where: str) -> NotFound:
    """The error for a model that the registry does not have."""
    return NotFound(
        f"There is no registered model {one_line(model, 80)!r}.",
        why=f"The registry at {where} does not know the name.",
        fix="List the names with `slipway models`.",
    )


def no_such_version(ref: VersionRef, where: str) -> NotFound:
    """The error for a number that the model does not have."""
    return NotFound(
        f"There is no model version {one_line(ref, 90)}.",
        why=f"The registry at {where} does not have it.",
        fix=f"List the versions with `slipway models {shlex.quote(one_line(ref.model, 80))}`.",
    )
