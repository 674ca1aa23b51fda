"""A cluster on this machine, from nothing: what is missing before a first deploy, in order. Pure.

For targets whose context is minikube's or kind's. What can be asked of the API server (KServe,
rights, runtimes) stands in facilities.py; here is what has to be there before one answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

from services.domain import Finding, Verdict

KSERVE = "v0.20.0"
"""The KServe that the commands install: the newest that Slipway was tried with."""

INSTALL_KSERVE = (
    "curl -fsSL https://raw.githubusercontent.com/kserve/kserve/master/install/"
    f"{KSERVE}/kserve-standard-mode-full-install-with-manifests.sh | bash"
)

_PROGRAMS = {
    "minikube": "https://minikube.sigs.k8s.io/docs/start/",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
}

Which = Callable[[str], str | None]
"""Where a program is; None when it is not on the PATH."""


def flavour_of(context: str, told: str = "") -> str:
    """minikube, kind or "": as the kubeconfig tells, else as the context is called."""
    if told:
        return told
    if context == "minikube":
        return "minikube"
    return "kind" if context.startswith("kind-") else ""


def findings(
    context: str, flavour: str, *, known: bool, which: Which = shutil.which
) -> Iterator[Finding]:
    """What is missing on this machine, in the order in which it is put right.

    `known`: the kubeconfig has the context. Nothing for other clusters than minikube and kind.
    """
    if flavour not in {"minikube", "kind"}:
        return
    page = "docs/minikube.md" if flavour == "minikube" else "docs/kind.md"
    if which(flavour) is None:
        yield Finding(
            flavour,
            Verdict.WARN if known else Verdict.FAIL,
            f"{flavour} is not on the PATH of Slipway's process.",
            f"Install it: {_PROGRAMS[flavour]}",
        )
    else:
        yield Finding(flavour, Verdict.PASS, f"{which(flavour)}.")
    engine = next((name for name in ("docker", "podman") if which(name)), None)
    if engine is None:
        # minikube builds inside its node; kind has no builder of its own.
        yield Finding(
            "builder",
            Verdict.WARN if flavour == "minikube" else Verdict.FAIL,
            "Neither docker nor podman is on the PATH of Slipway's process.",
            "Install one: https://docs.docker.com/engine/install/",
        )
    else:
        yield Finding("builder", Verdict.PASS, f"{which(engine)}.")
    if which("kubectl") is None:
        yield Finding(
            "kubectl",
            Verdict.WARN,
            "kubectl is not on the PATH: Slipway needs none, installing KServe does.",
            f"Install it: {_PROGRAMS['kubectl']}"
            + (", or use `minikube kubectl --`" if flavour == "minikube" else ""),
        )
    else:
        yield Finding("kubectl", Verdict.PASS, f"{which('kubectl')}.")
    if not known:
        yield Finding(
            "cluster",
            Verdict.FAIL,
            f"The kubeconfig has no context {context}.",
            f"{start_command(context, flavour)}   (then KServe: {page})",
        )


def start_command(context: str, flavour: str) -> str:
    """The command that makes or starts the cluster of a context."""
    if flavour == "kind":
        return f"kind create cluster --name {context.removeprefix('kind-')}"
    profile = "" if context in {"", "minikube"} else f" --profile {context}"
    return f"minikube start --cpus 4 --memory 8g{profile}"
