"""The whole voyage on a real cluster, by hand in a browser, in both deployment modes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from services.cluster import APPLY_PATCH, MERGE_PATCH, Cluster
from services.domain import Json
from tests.browser.conftest import App, served
from tests.browser.hands import (
    SLOW_MS,
    answered_by,
    button,
    choose_row,
    fact,
    field,
    pick,
    press,
    rows,
    verified,
    visit,
)
from tests.cluster.account import RBAC, Account
from tests.cluster.account import kubeconfig as kubeconfig_for
from tests.cluster.conftest import account, admin, bucket, emulator, namespace

__all__ = ["account", "admin", "bucket", "emulator", "namespace"]  # fixtures of the cluster tier

pytestmark = [pytest.mark.browser, pytest.mark.cluster, pytest.mark.timeout(900)]

STOCK = "kserve-mlserver"
"""KServe's own runtime: its MLflow cannot read what a current one saves."""


@pytest.fixture(scope="module")
def kubeconfig(
    admin: Cluster, account: Account, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Three contexts: `whole` with the shipped Role, `reader` that may only look, one unnamed."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    admin.send("POST", accounts, doing="x", body={"metadata": {"name": "reader"}})
    looks = {"verbs": ["get", "list", "watch"], "resources": ["*"]}
    groups = ["", "apps", "serving.kserve.io", "serving.knative.dev", "coordination.k8s.io"]
    role = {"metadata": {"name": "reader"}, "rules": [{"apiGroups": groups, **looks}]}
    binding = {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
    }
    for kind, body in (("roles", role), ("rolebindings", binding)):
        admin.send("POST", f"{RBAC}/namespaces/{namespace}/{kind}", doing="x", body=body)
    asked = admin.send("POST", f"{accounts}/reader/token", doing="x", body={"spec": {}})
    whole = {"token": account.token}
    file = tmp_path_factory.mktemp("kube") / "config"
    file.write_text(
        kubeconfig_for(
            admin,
            {"whole": whole, "reader": {"token": asked.body["status"]["token"]}, "spare": whole},
        )
    )
    return file


@pytest.fixture(scope="module")
def ashore(  # noqa: PLR0917 (fixtures by name)
    seeded: Path,
    kubeconfig: Path,
    namespace: str,
    bucket: str,
    emulator: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[App]:
    """The dashboard over the demo's models, its targets on the cluster; `knative` is protected."""
    state = tmp_path_factory.mktemp("ashore")
    config = state / "slipway.toml"
    config.write_text(
        f"""
default_target = "standard"
registry.tracking_uri = "sqlite:///{seeded / "mlflow.db"}"
"""
        + "".join(
            f"""
[targets.{name}]
kind = "kubernetes"
context = "{context}"
namespace = "{namespace}"
bucket = "{bucket}"
{more}
"""
            for name, context, more in (
                ("standard", "whole", 'mode = "Standard"'),
                ("knative", "whole", 'mode = "Knative"\nprotected = true'),
                ("reader", "reader", ""),
            )
        )
    )
    more = {"STORAGE_EMULATOR_HOST": emulator} if emulator else {}
    with served(
        state, tidy=False, SLIPWAY_CONFIG=str(config), KUBECONFIG=str(kubeconfig), **more
    ) as running:
        yield running


def endpoints(page: Page, app: App, service: str, target: str, **more: object) -> None:
    visit(page, app.url, "endpoints", service=service, target=target, **more)


def confirmed(page: Page, service: str, label: str) -> None:
    """Type the service's name, as a protected target wants it, and press the button."""
    expect(button(page, label)).to_be_disabled()
    page.get_by_role("textbox", name=re.compile(f"^Type {service} to confirm")).fill(service)
    expect(button(page, label)).to_be_enabled()
    press(page, label)


def says(page: Page, text: str) -> None:
    expect(page.get_by_text(text).first).to_be_visible(timeout=SLOW_MS)


def test_in_standard_mode_a_version_goes_live_a_bad_one_fails_in_words_and_is_taken_back(
    ashore: App, page: Page
) -> None:
    visit(page, ashore.url, "models", model="wine")
    choose_row(page, "Versions, newest first", "1")
    press(page, "Deploy wine/1")
    expect(field(page, "Service name")).to_have_value("wine")
    press(page, "Deploy wine/1")
    verified(page, 1)
    page.get_by_text("Steps", exact=True).click()
    for step in ("applied", "reconciled", "scheduled", "files downloaded", "server up"):
        says(page, step)
    answered_by(page, "wine", ashore.url, "wine/1")

    visit(page, ashore.url, "deploy", model="wine", version=2, service="wine")
    page.get_by_text("Advanced", exact=True).click()
    runtime = field(page, "Serving runtime")
    runtime.fill(STOCK)
    runtime.press("Enter")
    says(page, "will fail; it is saved as skops")
    press(page, "Deploy wine/2")
    says(page, "The server cannot read a model that is saved as skops. wine/1 still answers.")
    says(page, "/kserve-container")  # which pod, which container
    says(page, "The lines that say so")
    says(page, "Fix: ")
    answered_by(page, "wine", ashore.url, "wine/1")

    endpoints(page, ashore, "wine", "standard", tab="Logs", container="kserve-container")
    says(page, "HTTP server running on")
    endpoints(page, ashore, "wine", "standard", tab="Events")
    says(page, "Created container: kserve-container")
    press(page, "Go back to a verified release…")
    field(page, "Reason").fill("It cannot be read.")
    press(page, "Roll back to release 1")
    verified(page, 3)
    says(page, "Reason: It cannot be read.")

    pick(page, "Start a canary")
    says(page, "KServe splits traffic in Knative mode only")
    press(page, "Deploy a version as wine-next")
    expect(field(page, "Service name")).to_have_value("wine-next")


def test_in_knative_mode_a_canary_is_measured_changed_aborted_and_promoted(
    ashore: App, page: Page
) -> None:
    visit(page, ashore.url, "deploy", target="knative", model="wine", version=1, service="split")
    confirmed(page, "split", "Deploy wine/1")
    verified(page, 1)
    visit(
        page, ashore.url, "deploy",
        target="knative", model="wine", version=2, service="split", canary_percent=30,
    )  # fmt: skip
    confirmed(page, "split", "Deploy wine/2 to 30 % of split")
    verified(page, 2)

    endpoints(page, ashore, "split", "knative")
    says(page, "A canary is running: wine/1 70 %, wine/2 30 %.")
    count = page.get_by_role("spinbutton", name="Requests", exact=True)
    count.fill("300")
    count.press("Enter")
    expect(page).to_have_url(re.compile("split_requests=300"))  # it has reached the page
    press(page, "Measure the split")
    measured = rows(page, "Share of the answers by version").filter(has_text="wine/2")
    measured.wait_for(state="attached", timeout=SLOW_MS)
    cells = measured.locator("td").all_inner_texts()
    answered = next(int(cell) for cell in cells if cell.isdecimal())
    assert 60 <= answered <= 120, cells  # 90 are expected; four deviations are 32

    pick(page, "Change share")
    share = page.get_by_role("spinbutton", name=re.compile("^Share of the traffic"))
    share.fill("60")
    share.press("Enter")
    confirmed(page, "split", "Give the canary 60 %")
    verified(page, 3)
    says(page, "A canary is running: wine/2 60 %, wine/1 40 %.")

    pick(page, "Promote canary")
    confirmed(page, "split", "Promote wine/2")
    verified(page, 4)
    visit(page, ashore.url, "predict", target="knative", service="split")
    press(page, "Send request")
    expect(fact(page, "Answered by")).to_have_text("wine/2")

    visit(
        page, ashore.url, "deploy",
        target="knative", model="wine", version=1, service="split", canary_percent=10,
    )  # fmt: skip
    confirmed(page, "split", "Deploy wine/1 to 10 % of split")
    verified(page, 5)
    endpoints(page, ashore, "split", "knative", do="abort")
    confirmed(page, "split", "Abort the canary, back to wine/2")
    verified(page, 6)

    endpoints(page, ashore, "split", "knative", do="stop")
    confirmed(page, "split", "Stop split")
    says(page, "Stopped. A start brings wine/2 back.")
    visit(page, ashore.url, "predict", target="knative", service="split")
    says(page, "split is stopped: nothing answers.")


@pytest.fixture
def foreign(admin: Cluster, namespace: str) -> str:
    """A service that somebody made with kubectl, without pods."""
    name, path = "foreign", f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}"
    model: Json = {"modelFormat": {"name": "mlflow"}, "protocolVersion": "v2"}
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": {"serving.kserve.io/stop": "true"}},
        "spec": {"predictor": {"model": {**model, "storageUri": "gs://elsewhere/model"}}},
    }
    admin.send(
        "PATCH",
        f"{path}/inferenceservices/{name}",
        doing="make a service as kubectl does",
        query={"fieldManager": "kubectl-client-side-apply"},
        body=body,
        content_type=APPLY_PATCH,
    )
    return name


def test_a_service_of_others_is_adopted_by_a_button_and_an_edit_of_others_shows_as_drift(
    ashore: App, page: Page, foreign: str, admin: Cluster, namespace: str
) -> None:
    endpoints(page, ashore, foreign, "standard")
    says(page, "not made by Slipway")
    pick(page, "Adopt")
    press(page, f"Adopt {foreign}")
    says(page, "Release 1: adopt")
    admin.send(
        "PATCH",
        f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{foreign}",
        doing="edit as kubectl does",
        query={"fieldManager": "kubectl-edit"},
        body={"spec": {"predictor": {"minReplicas": 0}}},
        content_type=MERGE_PATCH,
    )
    time.sleep(2.5)  # a list may be two seconds old
    endpoints(page, ashore, foreign, "standard")
    says(page, "Drift in minimum replicas: recorded none, seen 0, by kubectl-edit.")


def test_what_the_identity_may_not_do_is_off_with_the_missing_right_beside_it(
    ashore: App, page: Page
) -> None:
    visit(page, ashore.url, "deploy", target="reader", model="wine", version=1, service="mine")
    says(page, "permission failed: You may not")
    expect(button(page, "Deploy wine/1")).to_be_disabled()
    visit(page, ashore.url, "health", target="reader")
    says(page, "You may not create or patch inferenceservices")


def test_the_health_page_offers_the_contexts_that_are_no_targets(ashore: App, page: Page) -> None:
    visit(page, ashore.url, "health", target="standard")
    expect(page.get_by_role("combobox", name="Context of the kubeconfig")).to_be_visible()
    says(page, "[targets.spare]")
