from __future__ import annotations

from services.domain import Finding, Verdict
from services.groundwork import findings, flavour_of, start_command


def found(context: str, *, known: bool, programs: tuple[str, ...]) -> dict[str, Finding]:
    there = {name: f"/bin/{name}" for name in programs}
    flavour = flavour_of(context)
    return {f.name: f for f in findings(context, flavour, known=known, which=there.get)}


def test_an_empty_machine_is_told_everything_in_the_order_of_doing() -> None:
    missing = found("minikube", known=False, programs=())
    assert list(missing) == ["minikube", "builder", "kubectl", "cluster"]
    assert missing["minikube"].verdict is Verdict.FAIL
    assert "minikube start" in missing["cluster"].fix


def test_nothing_is_wanted_where_everything_is_there() -> None:
    there = found("kind-dev", known=True, programs=("kind", "docker", "kubectl"))
    assert {finding.verdict for finding in there.values()} == {Verdict.PASS}


def test_kind_cannot_build_without_docker_or_podman_but_minikube_can() -> None:
    assert found("kind-dev", known=True, programs=("kind",))["builder"].verdict is Verdict.FAIL
    here = found("minikube", known=True, programs=("minikube",))
    assert here["builder"].verdict is Verdict.WARN


def test_a_cluster_that_runs_without_its_tool_here_is_no_failure() -> None:
    assert found("minikube", known=True, programs=())["minikube"].verdict is Verdict.WARN


def test_other_clusters_are_none_of_its_business() -> None:
    assert found("gke_acme_eu_serving", known=True, programs=()) == {}


def test_the_clusters_name_is_in_the_command_that_makes_it() -> None:
    assert start_command("kind-dev", "kind") == "kind create cluster --name dev"
    assert start_command("other", "minikube").endswith("--profile other")
