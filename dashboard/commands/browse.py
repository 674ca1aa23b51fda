"""Verbs that look at the registry and the targets: models, show, compare, targets, doctor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, zip_longest

from dashboard import views
from dashboard.commands.session import (
    OK,
    TARGET_WITHIN_S,
    Answer,
    Session,
    aliases_text,
    at_once,
    services_everywhere,
    serving_text,
    within,
)
from dashboard.terminal import pairs, table
from services import preparing
from services.domain import Finding, Mode, TargetKind, Verdict, parse_ref
from services.errors import SlipwayError, one_line
from services.settings import CONTEXT


def models(session: Session) -> Answer:
    """Registered models, or one's versions, and where they serve."""
    args = session.args
    if args.name is not None:
        return _versions_of(session, args.name)
    wanted = (args.search or "").lower()
    models = [
        model
        for model in session.reach.registry.models()
        if (args.alias is None or args.alias in model.aliases)
        and (wanted in model.name.lower() or wanted in model.description.lower())
    ]
    serving = views.serving_rows(services_everywhere(session)) if models else []
    rows = [views.model_row(model, serving) for model in models]
    lines = table(
        ("MODEL", "VERSIONS", "LATEST", "ALIASES", "SERVING"),
        (
            (
                row["name"],
                row["versions"],
                row["latest_version"],
                aliases_text(row["aliases"]),
                serving_text(row["serving"]),
            )
            for row in rows
        ),
    )
    if not rows:
        session.terminal.say(
            "No registered model fits the filter. `slipway models` alone lists them all."
            if args.search or args.alias
            else "There is no registered model yet. `slipway demo` makes some to try with."
        )
        lines = iter(())
    return Answer({"models": rows}, lines)


def _versions_of(session: Session, name: str) -> Answer:
    args = session.args
    wanted = (args.search or "").lower()
    versions = [
        version
        for version in session.reach.registry.versions(name)
        if (args.alias is None or args.alias in version.aliases)
        and wanted in f"{version.description} {version.tags} {version.params}".lower()
    ]
    serving = views.serving_rows(services_everywhere(session)) if versions else []
    rows = [views.version_row(version, serving) for version in versions]
    lines = table(
        ("VERSION", "ALIASES", "CREATED", "METRICS", "SERVING"),
        (
            (
                f"{name}/{row['version']}",
                ", ".join(row["aliases"]),
                row["created_at"],
                ", ".join(f"{key}={value:.4g}" for key, value in sorted(row["metrics"].items())),
                serving_text(row["serving"]),
            )
            for row in rows
        ),
    )
    for row in rows:
        for problem in row["problems"]:
            session.terminal.say(f"{name}/{row['version']}: {problem}")
    return Answer({"model": name, "versions": rows}, lines)


def show(session: Session) -> Answer:
    """One version with what its files say."""
    registry = session.reach.registry
    version = registry.version(parse_ref(session.args.ref))
    serving = views.serving_rows(services_everywhere(session))
    document = views.version_document(version, registry.details(version.ref), serving)
    return Answer(document, _version_lines(document))


def _version_lines(document: views.VersionDocument) -> Iterator[str]:
    yield from pairs(
        {
            "version": f"{document['model']}/{document['version']}",
            "aliases": ", ".join(document["aliases"]),
            "created": document["created_at"],
            "by": document["author"],
            "description": document["description"],
            "run": document["run_url"] or document["run_id"],
            "source": document["source"],
            "Python": document["python_version"],
            "MLflow": document["mlflow_version"],
            "serving": serving_text(document["serving"]),
        }
    )
    signature = document["signature"]
    for part in ("inputs", "outputs", "params"):
        fields = signature[part] if signature else []
        if fields:
            yield ""
            yield from table(
                (part.upper(), "TYPE", "SHAPE"),
                ((each["name"] or "(one)", each["type"], each["shape"]) for each in fields),
            )
    for title in ("metrics", "params"):
        values: Mapping[str, object] = document[title]
        if values:
            yield ""
            yield from table((title.upper(), "VALUE"), sorted(values.items()))
    if document["input_example"] is not None:
        yield ""
        yield "INPUT EXAMPLE"
        yield f"  {one_line(json.dumps(document['input_example']), 1_000)}"
    if document["requirements"]:
        yield ""
        yield "REQUIREMENTS"
        yield from (f"  {one_line(line)}" for line in document["requirements"])
    if document["files"]:
        yield ""
        sizes = ((file["path"], views.size_text(file["bytes"])) for file in document["files"])
        yield from table(("FILE", "SIZE"), sizes)
    for problem in document["problems"]:
        yield ""
        yield f"Note: {one_line(problem)}"


def compare(session: Session) -> Answer:
    """What differs between two versions."""
    from services.compare import compare_versions

    registry = session.reach.registry
    left = registry.version(parse_ref(session.args.left))
    right = registry.version(parse_ref(session.args.right))
    found = compare_versions(left, registry.details(left.ref), right, registry.details(right.ref))
    rows = [views.difference_row(difference) for difference in found]
    document = {"left": str(left.ref), "right": str(right.ref), "differences": rows}
    if not rows:
        return Answer(document, [f"{left.ref} and {right.ref} do not differ."])
    lines = table(
        ("FIELD", str(left.ref), str(right.ref), "BREAKING"),
        ((row["field"], row["left"], row["right"], _breaking_text(row)) for row in rows),
    )
    return Answer(document, lines)


def _breaking_text(row: views.DifferenceRow) -> str:
    return f"yes: {row['why']}" if row["breaking"] else ""


def targets(session: Session) -> Answer:
    """Configured targets, and whether each answers."""
    chosen, _ = session.settings.target(session.args.target)
    names = list(dict.fromkeys((*session.settings.all_targets, chosen)))
    rows = at_once([partial(_target_row, session, name, chosen) for name in names])
    lines = table(
        ("TARGET", "KIND", "NAMESPACE", "MODE", "ANSWERS", "WHY"),
        (
            (
                f"{row['name']}{' *' if row['default'] else ''}",
                row["kind"],
                row["namespace"],
                row["mode"],
                row["reachable"],
                "see below" if row["why"] else "",
            )
            for row in rows
        ),
    )
    # Whole, below the table: a plugin's words end with what matters.
    silent = (f"{row['name']}: {one_line(row['why'], _DETAIL)}" for row in rows if row["why"])
    lines = chain(lines, silent)
    document: dict[str, object] = {"targets": rows}
    if session.args.project is not None:
        clusters = _clusters(session, session.args.project)
        document["clusters"] = clusters
        lines = chain(lines, [""], _cluster_lines(clusters))
    contexts = session.reach.contexts()
    for context in contexts:
        flavour = f" ({context.flavour})" if context.flavour else ""
        _offer(
            session,
            f"The kubeconfig's context {one_line(context.name)}{flavour}",
            views.target_lines(context),
            as_it_is=f"{CONTEXT}{one_line(context.name)}",
        )
    document["contexts"] = [
        {"name": c.name, "server": c.server, "namespace": c.namespace, "flavour": c.flavour}
        for c in contexts
    ]
    return Answer(document, lines)


def _clusters(session: Session, project: str) -> list[views.ClusterRow]:
    """The GKE clusters of a project; those that no target names are offered as one."""
    found = session.reach.gke_clusters(project)
    rows = [views.cluster_row(cluster, session.settings.all_targets) for cluster in found]
    for cluster, row in zip(found, rows, strict=True):
        if row["target"] is None:
            _offer(session, f"The cluster {cluster.place}", views.gke_target_lines(cluster))
    return rows


def _cluster_lines(rows: Sequence[views.ClusterRow]) -> Iterator[str]:
    if not rows:
        return iter(["The project has no cluster of GKE."])
    return table(
        ("CLUSTER", "LOCATION", "STATUS", "VERSION", "ENDPOINT", "TARGET"),
        (
            (r["name"], r["location"], r["status"], r["version"], r["endpoint"], r["target"] or "–")
            for r in rows
        ),
    )


def _offer(session: Session, what: str, lines: str, as_it_is: str = "") -> None:
    now = f" Use it as it is with `--target {as_it_is}`." if as_it_is else ""
    session.terminal.say(f"{what} is no target yet.{now} To make it one, add to slipway.toml:")
    for line in lines.splitlines():
        session.terminal.say(f"  {line}")


def _target_row(session: Session, name: str, chosen: str) -> views.TargetRow:
    _, target = session.settings.target(name)
    is_local = target.kind is TargetKind.LOCAL

    def asked() -> str:
        try:
            session.reach.ops(name).serving.services()
        except SlipwayError as error:
            return " ".join(part for part in (error.what, error.why) if part)
        return ""

    found = within(TARGET_WITHIN_S, asked)
    why = f"No answer within {TARGET_WITHIN_S:g} s." if found is None else found
    return {
        "name": name,
        "kind": target.kind.value,
        "namespace": "" if is_local else target.namespace,
        "mode": Mode.LOCAL.value if is_local else (target.mode.value if target.mode else None),
        "protected": target.protected,
        "default": name == chosen,
        "reachable": not why,
        "why": why,
    }


_DETAIL = 1_000
"""Characters of a finding that are shown: a plugin's words end with what matters."""


def doctor(session: Session) -> Answer:
    """Every check of registry, store and target; exit 7 when one failed."""

    def of_target() -> Sequence[Finding]:
        try:
            return preparing.checked(session.ops)
        except SlipwayError as error:
            detail = " ".join(part for part in (error.what, error.why) if part)
            return [Finding("target", Verdict.FAIL, detail, error.fix)]

    groups = at_once([session.reach.registry.check, session.reach.store.check, of_target])
    rows = [views.check_row(finding) for group in groups for finding in group]
    failed = any(row["outcome"] == "failed" for row in rows)
    return Answer({"checks": rows}, _check_lines(rows), exit_code=7 if failed else OK)


def _check_lines(rows: Iterable[views.CheckRow]) -> Iterator[str]:
    """A line for each check; what mends several in a row stands once, below the last of them."""
    shown = list(rows)
    for row, following in zip_longest(shown, shown[1:]):
        yield f"{row['outcome']:<8} {one_line(row['name'])}: {one_line(row['detail'], _DETAIL)}"
        again = following is not None and following["outcome"] != "passed"
        if again and following["fix"] == row["fix"]:
            continue
        if row["fix"] and row["outcome"] != "passed":
            said, *commands = row["fix"].splitlines()
            yield f"{'':<8} → {one_line(said)}"
            yield from (f"{'':<10} {one_line(line, 1_000)}" for line in commands)
