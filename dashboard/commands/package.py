"""Verbs that make packages and manifests without deploying: publish, image, render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dashboard import views
from dashboard.commands.operate import wish_of
from dashboard.commands.session import Answer, Session
from dashboard.terminal import pairs
from services import rollout
from services.domain import PackageKind, Registration, TargetKind, Verdict, parse_ref
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
    prepared = rollout.prepare_deploy(
        ops, args.ref, name=args.name, wish=wish_of(args, session.terminal.stdin)
    )
    rollout.refuse_if_blocked(prepared.plan, prepared.findings)
    document: dict[str, Any] = {"service": args.name, "manifest": prepared.manifest, "files": []}
    if args.out is None:
        return Answer(document, prepared.manifest.rstrip().splitlines())
    path = Path(args.out) / f"{prepared.plan.service}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(prepared.manifest, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The manifests cannot be written to {one_line(args.out)}.",
            why=f"{one_line(error.strerror)}.",
        ) from error
    document["files"] = [str(path)]
    return Answer(document, [str(path)])
