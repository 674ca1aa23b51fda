"""scripts/deploy_gke.sh: what it makes of its words, before and without any cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "deploy_gke.sh"
PLACE = {
    "GKE_PROJECT": "acme-ml",
    "GKE_LOCATION": "europe-west1",
    "GKE_CLUSTER": "serving",
    "GCS_BUCKET": "acme-models",
}


def run(
    folder: Path, *words: str, **environment: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script with a slipway that only notes its words and its settings."""
    noted = folder / "noted"
    slipway = folder / "slipway"
    slipway.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {noted}\nenv | grep ^SLIPWAY_ >> {noted}\nexit 8\n'
    )
    slipway.chmod(0o755)
    ran = subprocess.run(
        [str(SCRIPT), *words],
        env={"PATH": "/usr/bin:/bin", "SLIPWAY": str(slipway), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran, noted.read_text().splitlines() if noted.exists() else []


@pytest.mark.parametrize(
    ("version", "ref"), [("3", "wine/3"), ("champion", "wine@champion"), ("latest", "wine@latest")]
)
def test_a_version_is_a_number_or_an_alias(tmp_path: Path, version: str, ref: str) -> None:
    ran, words = run(tmp_path, "wine", version, **PLACE)
    assert words[:6] == ["deploy", ref, "--name", "wine", "--target", "gke"]
    assert ran.returncode == 8


def test_the_place_becomes_a_target_without_a_configuration_file(tmp_path: Path) -> None:
    _, words = run(tmp_path, "wine", "3", **PLACE, NAMESPACE="models")
    assert {
        "SLIPWAY_TARGETS__GKE__KIND=gke",
        "SLIPWAY_TARGETS__GKE__PROJECT=acme-ml",
        "SLIPWAY_TARGETS__GKE__BUCKET=gs://acme-models",
        "SLIPWAY_TARGETS__GKE__NAMESPACE=models",
    } <= set(words)


def test_a_target_of_the_configuration_file_needs_no_place(tmp_path: Path) -> None:
    _, words = run(tmp_path, "wine", "3", "--confirm", "wine", TARGET="prod")
    assert words[words.index("--target") + 1] == "prod"
    assert words[-2:] == ["--confirm", "wine"]
    assert not [word for word in words if word.startswith("SLIPWAY_TARGETS")]


def test_a_models_name_becomes_one_that_kubernetes_can_have(tmp_path: Path) -> None:
    _, words = run(tmp_path, "Red_Wine 2.0", "3", **PLACE)
    assert words[1:4] == ["Red_Wine 2.0/3", "--name", "red-wine-2-0"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Usage:"),
        (("wine",), "Usage:"),
        (("wine", "3;id"), "neither a number nor an alias"),
        (("wine$(id)", "3"), "characters that a reference cannot have"),
    ],
)
def test_wrong_words_are_told_and_nothing_is_run(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    ran, noted = run(tmp_path, *words, **PLACE)
    assert (ran.returncode, noted) == (2, [])
    assert said in ran.stderr


def test_what_is_missing_of_the_place_is_named(tmp_path: Path) -> None:
    ran, noted = run(tmp_path, "wine", "3", GKE_PROJECT="acme-ml", GCS_BUCKET="b")
    assert (ran.returncode, noted) == (2, [])
    assert "set GKE_LOCATION GKE_CLUSTER." in ran.stderr
