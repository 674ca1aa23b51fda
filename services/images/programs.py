"""Running docker, podman, minikube and kind: argument lists, streamed lines, one door for errors.

A build may take many minutes, so its lines are handed on as they come, and whoever stops reading
(an interruption, an error in the report) ends the whole process group: no build goes on unseen.

Written against docker 28, podman 4.3 to 5, minikube 1.3x, kind 0.2x.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence

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

BUILD_S = 3600.0
"""A build or push that takes longer is ended: PyTorch over a slow line needs 10 minutes."""
ASK_S = 60.0
_END_S = 5.0
_LINES_KEPT = 200
_SAYS_NOTHING = "Requirement already satisfied"
"""pip writes a hundred of these on a base that has the libraries."""

_INSTALL = {
    "docker": "Install Docker (https://docs.docker.com/engine/install/), or choose another builder"
    ' (`builder = "podman"` or "minikube").',
    "podman": 'Install podman, or choose another builder (`builder = "docker"`).',
    "minikube": "Install minikube (https://minikube.sigs.k8s.io/docs/start/).",
    "kind": "Install kind (https://kind.sigs.k8s.io/docs/user/quick-start/).",
}


def require(program: str) -> None:
    """ConfigError when a program is not there."""
    if shutil.which(program) is None:
        raise ConfigError(
            f"{one_line(program)} is not on the PATH of Slipway's process.",
            why="It is what images for this target are built or brought to the cluster with.",
            fix=_INSTALL.get(program, "Install it, or correct `load_command` of the target."),
        )


def run(command: Sequence[str], *, doing: str, report: Report, timeout_s: float = BUILD_S) -> None:
    """Run a long step to its end, its lines going to `report`. `doing` completes "Could not …"."""
    require(command[0])
    kept: deque[str] = deque(maxlen=_LINES_KEPT)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that the whole group can be ended
    )
    over = threading.Event()

    def end_it() -> None:
        over.set()
        _end(process)

    late = threading.Timer(timeout_s, end_it)
    late.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                kept.append(line)
                if _SAYS_NOTHING not in line:
                    report(one_line(line), None)
        code = process.wait()
    finally:
        late.cancel()
        _end(process)
        if process.stdout is not None:
            process.stdout.close()
    if over.is_set():
        raise Unreachable(
            f"Could not {doing}: it took longer than {timeout_s:.0f} s and was ended.",
            fix="Is the network slow, or the machine busy? Start it again: finished layers stay.",
        )
    if code:
        raise failure(kept, code, doing=doing, program=command[0])


def asked(command: Sequence[str], *, doing: str) -> tuple[int, str]:
    """Exit code and output (both streams) of a quick question. Unreachable when it takes long."""
    require(command[0])
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=ASK_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unreachable(
            f"Could not {doing}.",
            why=f"{command[0]} did not answer within {ASK_S:.0f} s.",
            fix=f"Look at it: `{command[0]} version`.",
        ) from error
    return done.returncode, done.stdout


def _end(process: subprocess.Popen[str]) -> None:
    """End the process group: politely first, so that a builder can take its own work down."""
    if process.poll() is not None:
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            continue
        return


# ── What failed, in words ─────────────────────────────────────────────────────────────────────

# Read in the output of docker 28, podman 4.3, minikube, kind and pip 23 to 26. First match wins.
_FAILURES: tuple[tuple[str, type[SlipwayError], str, str], ...] = (
    (
        r"(?P<words>permission denied[^\n]*docker[^\n]*socket)",
        Denied,
        "You may not use the Docker daemon: {words}.",
        "Add yourself to the group docker (`sudo usermod -aG docker $USER`, then log in again).",
    ),
    (
        r"(?P<words>Cannot connect to the Docker daemon[^\n]*?)(?: Is the docker daemon|$)",
        Unreachable,
        "No Docker daemon answers: {words}",
        "Start it (Docker Desktop, or `sudo systemctl start docker`), or point DOCKER_HOST at one.",
    ),
    (
        r"(?P<words>(?:Cannot|unable to) connect to Podman[^\n]*)",
        Unreachable,
        "Podman does not answer: {words}",
        "Start its machine: `podman machine start`.",
    ),
    (
        r"(?P<words>no space left on device|disk quota exceeded)",
        NotDeployable,
        "The builder's disk is full ({words}).",
        "Make room: `docker system df` shows what takes it, `docker image prune` frees some.",
    ),
    (
        r"No matching distribution found for (?P<words>[^\n]+)",
        NotDeployable,
        "pip finds no release of {words} for the base image's Python and processor.",
        (
            "Log the model again with a version that is on the package index, or choose another"
            " `base` for the target."
        ),
    ),
    (
        r"(?P<words>ResolutionImpossible|conflicting dependencies[^\n]*)",
        NotDeployable,
        "The model's requirements do not go together ({words}).",
        "The lines above name the two; log the model again with requirements that fit each other.",
    ),
    (
        r"(?P<words>Failed (?:to build|building wheel for) [^\n]+)",
        NotDeployable,
        "A package has no ready-made wheel for the base image, and building it failed: {words}.",
        "Pin a version that has a wheel, or choose a `base` that has the package or a compiler.",
    ),
    (
        r"(?P<words>externally-managed-environment)",
        NotDeployable,
        "The base image's Python belongs to its system: pip may not install there ({words}).",
        "Choose another `base`, for example python:3.11-slim.",
    ),
    (
        (
            r"(?P<words>[^\n]*(?:Temporary failure in name resolution|Max retries exceeded"
            r"|Read timed out|no such host|connection refused|i/o timeout|TLS handshake timeout))"
        ),
        Unreachable,
        "The network of the build does not reach what it needs: {words}.",
        (
            "Check the network and proxy of the builder; behind a mirror, use a `base` whose"
            " pip.conf names it."
        ),
    ),
    (
        (
            r"(?P<words>[^\n]*(?:manifest unknown|pull access denied"
            r"|failed to resolve source metadata|unable to (?:copy|pull)"
            r"|repository does not exist|No such image: "
            r"|did not resolve to an alias)[^\n]*)"
        ),
        NotFound,
        "The base image is not there: {words}.",
        "Correct `base` of the target (targets.NAME.image.base), or pull it: `docker pull BASE`.",
    ),
    (
        (
            r"(?P<words>[^\n]*(?:unauthorized|authentication required|no basic auth|denied: [^\n]+"
            r"|access (?:forbidden|denied)|403 Forbidden)[^\n]*)"
        ),
        Denied,
        "The registry did not let you: {words}.",
        (
            "Log in: `docker login REGISTRY`; for Artifact Registry `gcloud auth configure-docker"
            " LOCATION-docker.pkg.dev`, with the role roles/artifactregistry.writer."
        ),
    ),
    (
        r"(?P<words>no nodes found for cluster[^\n]*)",
        NotFound,
        "kind has no such cluster: {words}.",
        "`kind get clusters` lists them; `kind create cluster` makes one.",
    ),
    (
        r'(?P<words>Profile "[^"\n]+" not found|[^\n]*host is not running[^\n]*)',
        Unreachable,
        "minikube does not run: {words}.",
        "Start it: `minikube start`.",
    ),
)


def failure(lines: Sequence[str], code: int, *, doing: str, program: str) -> SlipwayError:
    """A failed step's last lines as our error, cause first."""
    text = "\n".join(one_line(line, 600) for line in lines)
    what = f"Could not {doing}. Nothing that serves was changed."
    for pattern, kind, why, fix in _FAILURES:
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            words = one_line(match["words"]).rstrip(" .")
            return kind(what, why.format(words=words), fix)
    if code in {-signal.SIGKILL, 137}:
        last = f"{program} was killed: by somebody, or because memory ran out"
    else:
        last = next((one_line(line) for line in reversed(lines) if line.strip()), "")
        last = last or f"{program} ended with exit code {code} without a word"
    return NotDeployable(
        what,
        why=f"{last.rstrip('.')}.",
        fix="The lines above say more; `slipway image REF --print` shows what is built.",
    )
