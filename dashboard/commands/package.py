"""Verbs that make packages and manifests without deploying: publish, image, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dashboard import views
from dashboard.commands.operate import wish_of
from dashboard.commands.session import Answer, Session
from dashboard.terminal import pairs
from services import planning, preparing
from services.domain import PackageKind, Plan, Registration, TargetKind, Verdict, parse_ref
from services.errors import ConfigError, NotDeployable, NotOffered, one_line


def publish(session: Session) -> Answer:
    """Make a version's package, or find it made."""
    ops = session.ops
    version = ops.registry.version(parse_ref(session.args.ref))
    if version.registration is not Registration.READY:
        raise NotDeployable(
            f"{version.ref} cannot be published. Nothing was changed.",
            why=f"Its registration is {version.registration.value}.",
            fix="Wait until it is ready, or register the model again.",
        )
    files = len(ops.registry.details(version.ref).files)
    reused = ops.packager.exists(ops.packager.propose(version)).verdict is Verdict.PASS
    package = ops.packager.make(version, session.terminal.report())
    document = views.package_document(package, files=files, reused=reused)
    lines = pairs(
        {
            "package": document["uri"],
            "digest": document["digest"],
            "files": document["files"],
            "size": views.size_text(document["bytes"]),
            "made": "earlier" if reused else "now",
        }
    )
    return Answer(document, lines)


def image(session: Session) -> Answer:
    """Make a version's image, or only show what it is made of. NotOffered on this machine."""
    from services.images import ImagePackager

    ops = session.ops
    if ops.kind is TargetKind.LOCAL:
        raise NotOffered(
            f"The target {ops.target} takes no images; not yet for this target."
            " Nothing was changed.",
            why="Its services are processes of this machine, which load folders.",
            fix="Choose a cluster with --target.",
        )
    version = ops.registry.version(parse_ref(session.args.ref))
    packager = ops.packaging(PackageKind.IMAGE)
    if session.args.print and isinstance(packager, ImagePackager):
        recipe = packager.recipe(version)
        document: dict[str, Any] = {
            "image": recipe.image,
            "digest": recipe.digest,
            "dockerfile": recipe.dockerfile,
            "requirements": recipe.requirements.splitlines(),
        }
        shown = f"{recipe.dockerfile}\n# requirements.txt\n{recipe.requirements}"
        return Answer(document, [f"# {recipe.image}", *shown.rstrip().splitlines()])
    reused = packager.exists(packager.propose(version)).verdict is Verdict.PASS
    package = packager.make(version, session.terminal.report())
    document = {
        "image": package.uri,
        "digest": package.digest,
        "image_digest": package.image_digest,
        "reused": reused,
    }
    return Answer(document, pairs(document))


def render(session: Session) -> Answer:
    """The manifests of a deploy, for GitOps. NotOffered on this machine."""
    args, ops = session.args, session.ops
    if ops.kind is TargetKind.LOCAL:
        raise NotOffered(
            f"The target {ops.target} has no manifests to render; not yet for this target.",
            why="Its services are processes of this machine, not objects of a cluster.",
            fix="Choose a cluster with --target.",
        )
    prepared = preparing.prepare_render(
        ops, args.ref, name=args.name, wish=wish_of(args, session.terminal.stdin)
    )
    planning.refuse_if_blocked(prepared.plan, prepared.findings)
    for finding in prepared.findings:
        if finding.verdict is Verdict.WARN:
            session.terminal.warn(f"{finding.name}: {finding.detail} {finding.fix}".strip())
    document: dict[str, Any] = {
        "service": args.name,
        "version": prepared.version.ref.number if prepared.version else None,
        "manifest": prepared.manifest,
        "files": [],
    }
    if args.out is None and args.kustomize is None:
        return Answer(document, prepared.manifest.rstrip().splitlines())
    try:
        if args.kustomize is not None:
            files = _kustomized(Path(args.kustomize), prepared.plan, prepared.manifest)
        else:
            files = {Path(args.out) / f"{prepared.plan.service}.yaml": prepared.manifest}
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The manifests cannot be written to {one_line(args.kustomize or args.out)}.",
            why=f"{one_line(error.strerror)}.",
        ) from error
    document["files"] = [str(path) for path in files]
    return Answer(document, document["files"])


def _kustomized(folder: Path, plan: Plan, manifest: str) -> dict[Path, str]:
    """Path → text of what a Kustomize base with this service has to have; other services stay.

    The namespace stands in the kustomization alone, so that an overlay can name another.
    """
    made = yaml.safe_load(manifest)
    made["metadata"].pop("namespace", None)
    name = f"{plan.service}.yaml"
    files = {folder / name: yaml.safe_dump(made, sort_keys=False, allow_unicode=True)}
    path = folder / "kustomization.yaml"
    base = _base(path)
    if base.setdefault("namespace", plan.namespace) != plan.namespace:
        raise ConfigError(
            f"The manifests were not written to {one_line(folder)}.",
            why=f"That base is for the namespace {one_line(base['namespace'])},"
            f" {plan.service} for {plan.namespace}.",
            fix="Render it into a folder of its own.",
        )
    resources = base.setdefault("resources", [])
    if name not in resources:
        # A file that already names the service is left as it is, comments and all.
        resources.append(name)
        files[path] = yaml.safe_dump(base, sort_keys=False, allow_unicode=True)
    return files


def _base(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{one_line(path)} is not YAML.", why=one_line(error), fix="Mend or remove it."
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("resources", []), list):
        raise ConfigError(
            f"{one_line(path)} is no kustomization.", fix="Render into another folder."
        )
    return found
