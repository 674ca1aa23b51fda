"""A real Kubernetes with KServe: whichever context KUBECONFIG or SLIPWAY_TEST_CONTEXT names.

Everything happens in a namespace of its own, made for the run and removed after it. Without a
context the tier is skipped and says why.

Two identities, never mixed: `cluster` is Slipway's, an account with the shipped Role and nothing
else (account.py); `admin` is the given context's, and only arranges, edits as others do, and
cleans up.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3

from services import planning, preparing, rollout
from services.cluster import Cluster
from services.domain import (
    ColumnSpec,
    Intent,
    Json,
    Mode,
    PackageKind,
    Plan,
    Progress,
    Release,
    Service,
    Signature,
    TargetKind,
    ValueKind,
    VersionRef,
)
from services.errors import RolloutFailed, SlipwayError
from services.gcs import GcsPackager
from services.journal import ClusterJournal
from services.kserve import KServeOptions, KServeServing, collections
from services.kubeconfig import contexts
from services.kubepaths import Paths
from services.planning import Wish
from services.ports import Ops, Packager, Store
from services.predictor import HttpPredictor
from services.watched import Direct
from tests import waiting
from tests.cluster.account import Account, scratch
from tests.cluster.account import account as account_in
from tests.constant import save_constant
from tests.contract.mlflow_servers import tracking_server
from tests.memory import MemoryEngine, MemoryRegistry, MemoryStore

FEATURES = ("alcohol", "malic_acid", "ash", "alcalinity_of_ash")
SIGNATURE = Signature(inputs=tuple(ColumnSpec(name, ValueKind.DOUBLE) for name in FEATURES))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is of the cluster tier."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def admin() -> Cluster:
    """The cluster that the suite was given, as its owner: for arrangements, never for Slipway."""
    context = os.environ.get("SLIPWAY_TEST_CONTEXT", "")
    if not context and not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster was given: set KUBECONFIG or SLIPWAY_TEST_CONTEXT")
    known = contexts()
    chosen = context or next((found.name for found in known if found.current), "")
    if not chosen:
        pytest.skip(f"the kubeconfig has no context {context or 'that is current'}")
    found = Cluster(target="test", context=chosen)
    try:
        found.identity()
        installed = found.get("/apis/serving.kserve.io/v1beta1", doing="look for KServe")
    except SlipwayError as error:
        pytest.skip(f"the cluster cannot be used: {error}")
    if installed is None:
        pytest.skip("the cluster has no KServe")
    return found


@pytest.fixture(scope="session")
def namespace(admin: Cluster) -> Iterator[str]:
    """A namespace of this run's own."""
    with scratch(admin) as name:
        yield name


@pytest.fixture(scope="session")
def account(
    admin: Cluster, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Account]:
    """Slipway's account: the shipped Role in the run's namespace, the reading ClusterRole."""
    with account_in(admin, namespace, tmp_path_factory.mktemp("account")) as made:
        yield made


@pytest.fixture(scope="session")
def cluster(account: Account) -> Cluster:
    """The cluster as Slipway meets it."""
    return account.cluster


@pytest.fixture(scope="session")
def bucket(admin: Cluster) -> str:
    """A bucket that both this process and the pods reach: an emulator's, or a given one."""
    given = os.environ.get("SLIPWAY_TEST_BUCKET")
    if given:
        return given
    emulator = _emulator(admin)
    if not emulator:
        pytest.skip("no bucket: set SLIPWAY_TEST_BUCKET to gs://BUCKET/ROOT")
    name = f"slipway-test-{secrets.token_hex(3)}"
    urllib3.request("POST", f"{emulator}/storage/v1/b", json={"name": name})
    return f"gs://{name}/models"


@pytest.fixture(scope="session")
def emulator(admin: Cluster) -> str:
    """Address of the bucket's emulator; "" for a real bucket."""
    return "" if os.environ.get("SLIPWAY_TEST_BUCKET") else _emulator(admin)


def _emulator(admin: Cluster) -> str:
    """The emulator that the cluster's storage initializer is pointed at."""
    for item in admin.items(
        "/apis/serving.kserve.io/v1alpha1/clusterstoragecontainers", doing="look for an emulator"
    ):
        for env in item["spec"]["container"].get("env") or ():
            if env["name"] == "STORAGE_EMULATOR_HOST":
                return str(env["value"])
    return ""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two real versions of scikit-learn's; see `train`."""
    return train(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def light(trained: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two versions that answer and require the same, and load in half the CPU time."""
    import pandas as pd

    folder = tmp_path_factory.mktemp("light")
    rows = pd.DataFrame([[13.0, 1.7, 2.4, 15.6]] * 3, columns=list(FEATURES))
    return {
        number: save_constant(folder / str(number), number, rows, requirements_of(trained[number]))
        for number in trained
    }


def train(folder: Path) -> dict[int, Path]:
    """Two real versions, saved as a current MLflow saves by default (skops): 1 says 1, 2 says 2."""
    import mlflow
    import pandas as pd
    import sklearn
    import skops
    from mlflow.models import infer_signature
    from sklearn.dummy import DummyClassifier

    rows = pd.DataFrame([[13.0, 1.7, 2.4, 15.6]] * 3, columns=list(FEATURES))
    saved = {}
    for number in (1, 2):
        model = DummyClassifier(strategy="constant", constant=number)
        model.fit(rows, [1, 2, 2])
        path = folder / str(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.sklearn.save_model(
                model,
                str(path),
                signature=infer_signature(rows, model.predict(rows)),
                input_example=rows.head(1),
                pip_requirements=[
                    f"mlflow=={mlflow.__version__}",
                    f"scikit-learn=={sklearn.__version__}",
                    f"skops=={skops.__version__}",
                ],
            )
        saved[number] = path
    return saved


@pytest.fixture(scope="session")
def versions(light: dict[int, Path]) -> MemoryRegistry:
    """A registry that has light versions as wine/1 and wine/2; tests leave it as it is.

    A module whose tests are about what MLflow saves by default puts those versions in its place.
    """
    return holding(light)


def holding(saved: dict[int, Path]) -> MemoryRegistry:
    """A registry that has saved models as versions of wine."""
    made = MemoryRegistry()
    for number, folder in saved.items():
        add(made, number, folder)
    return made


@pytest.fixture
def registry(versions: MemoryRegistry) -> MemoryRegistry:
    """The same registry, for one test."""
    return versions


@pytest.fixture(scope="session")
def machine(admin: Cluster) -> str:
    """This machine's address as pods reach it."""
    for node in admin.items("/api/v1/nodes", doing="look at the nodes"):
        for entry in node["status"]["addresses"]:
            if entry["type"] == "InternalIP" and _ours(entry["address"]):
                return str(entry["address"])
    pytest.skip("pods of this cluster do not reach servers of this machine")


def _ours(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def registry_server(
    machine: str,
    trained: dict[int, Path],
    light: dict[int, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """A real MLflow server with wine/1, wine/2 and the alias champion on 1, for pods too.

    wine/1 is saved as MLflow saves scikit-learn models by default, wine/2 is light: a service goes
    from one kind to the other and back.
    """
    import mlflow

    folder = tmp_path_factory.mktemp("mlflow")
    with tracking_server(folder, host=machine) as address:
        client = mlflow.MlflowClient(tracking_uri=address, registry_uri=address)
        client.create_registered_model("wine")
        experiment = client.create_experiment("wine")
        for saved in (trained[1], light[2]):
            run = client.create_run(experiment)
            client.log_artifacts(run.info.run_id, str(saved), "model")
            source = f"{run.info.artifact_uri}/model"
            client.create_model_version("wine", source, run.info.run_id)
        client.set_registered_model_alias("wine", "champion", "1")
        yield address


def add(registry: MemoryRegistry, number: int, folder: Path, **details: Json) -> VersionRef:
    """Register a saved model's folder as wine/<number>."""
    example = json.dumps(
        {"dataframe_split": {"columns": list(FEATURES), "data": [[13.0, 1.7, 2.4, 15.6]]}}
    )
    ref = registry.add("wine", number, signature=SIGNATURE, example=example)
    registry.files[ref] = {path.name: path.read_bytes() for path in folder.iterdir()}
    registry.details_of[ref] = replace(
        registry.details_of[ref], requirements=requirements_of(folder), **details
    )
    return ref


def requirements_of(folder: Path) -> tuple[str, ...]:
    """What a saved model requires."""
    return tuple((folder / "requirements.txt").read_text().splitlines())


@dataclass
class ClusterOps:
    """Ops on a real cluster, with registry and store in memory."""

    registry: MemoryRegistry
    packager: Packager
    serving: KServeServing
    journal: ClusterJournal
    namespace: str
    server: str
    target: str = "test"
    kind: TargetKind = TargetKind.KUBERNETES
    protected: bool = False
    predictor: HttpPredictor = field(default_factory=HttpPredictor)
    engine: MemoryEngine = field(default_factory=MemoryEngine)
    store: Store = field(default_factory=MemoryStore)
    reads: Direct | None = None

    def following(self, service: str) -> AbstractContextManager[None]:
        """From watches, where reads can change over to them."""
        if self.reads is None:
            return nullcontext()
        return self.reads.following(collections(self.namespace, service))

    def packaging(
        self, kind: PackageKind | None = None, *, own_environment: bool = False
    ) -> Packager:
        """The one packager, whatever is asked for."""
        return self.packager


@dataclass
class Voyage:
    """One service's journey on the cluster, in the words of the command line."""

    ops: Ops
    service: str
    mode: Mode

    def deploy(self, number: int, **wish: Json) -> Progress:
        prepared = preparing.prepare_deploy(
            self.ops, f"wine/{number}", name=self.service, wish=Wish(mode=self.mode, **wish)
        )
        planning.refuse_if_blocked(prepared.plan, prepared.findings)
        rollout.apply(prepared.plan, self.ops, actor="tester", version=prepared.version)
        return self.follow()

    def begin(self, number: int, **wish: Json) -> None:
        """Deploy without looking at checks or waiting."""
        prepared = preparing.prepare_deploy(
            self.ops, f"wine/{number}", name=self.service, wish=Wish(mode=self.mode, **wish)
        )
        rollout.apply(prepared.plan, self.ops, actor="tester", version=prepared.version)

    def plan(self, make: Callable[..., Plan], *args: Json, **kwargs: Json) -> Progress:
        history = self.ops.journal.history(self.service)
        plan = make(self.current, history, *args, **kwargs)
        rollout.apply(plan, self.ops, actor="tester", reason="because")
        return self.follow()

    def follow(self, timeout_s: float = 240) -> Progress:
        last = None
        for progress in rollout.follow(self.ops, self.service, timeout_s=timeout_s, every_s=0.5):
            last = progress
        assert last is not None
        return last

    def failure(self, timeout_s: float = 120) -> RolloutFailed:
        with pytest.raises(RolloutFailed) as caught:
            self.follow(timeout_s)
        return caught.value

    @property
    def current(self) -> Service:
        return preparing.require(self.ops, self.service)

    @property
    def releases(self) -> list[Release]:
        return list(self.ops.journal.history(self.service))

    def settled_answer(self, number: int) -> int:
        """`answer`, once it is `number`: an ingress follows the pods a second or two later."""
        return waiting.seen(self.answer, lambda said: said == number, within_s=15, every_s=0.3)

    def answer(self, address: str = "") -> int:
        """What the service predicts for the example: the number of the version that answers.

        `address`: of one side of a canary, asked by the service's ingress.
        """
        from services.bench import request_for_example

        endpoint = self.ops.serving.endpoint(self.service)
        if address:
            endpoint = replace(endpoint, host=urlsplit(address).netloc)
        example = self.ops.registry.details(VersionRef("wine", 1)).example
        request = request_for_example(SIGNATURE, example, model_name=endpoint.model_name)
        prediction = self.ops.predictor.infer(endpoint, request)
        (output,) = prediction.outputs
        return int(output.values[0])  # noqa: PD011 (no data frame: an Output of ours)


@pytest.fixture
def ops(  # noqa: PLR0917 (fixtures by name)
    cluster: Cluster,
    namespace: str,
    bucket: str,
    emulator: str,
    registry: MemoryRegistry,
    tmp_path: Path,
) -> ClusterOps:
    """The ports on the real cluster, as Slipway's account."""
    reads = Direct(cluster)
    journal = ClusterJournal(cluster, namespace, reads=reads)
    return ClusterOps(
        registry=registry,
        packager=GcsPackager(bucket, registry, tmp_path / "staging", emulator=emulator),
        serving=KServeServing(cluster, namespace, journal, KServeOptions(), reads=reads),
        reads=reads,
        journal=journal,
        namespace=namespace,
        server=cluster.host,
    )


@pytest.fixture
def voyage(ops: ClusterOps, admin: Cluster) -> Iterator[Callable[[Mode], Voyage]]:
    """Make a service of the given mode; removed after the test."""
    begun: list[Voyage] = []

    def begin(mode: Mode) -> Voyage:
        begun.append(Voyage(ops, f"wine-{secrets.token_hex(2)}", mode))
        return begun[-1]

    yield begin
    for made in begun:
        path = Paths(ops.namespace).service(made.service)
        admin.send("DELETE", path, doing="clean up", accept=(404,))
        waiting.seen(lambda: ops.serving.service(made.service) is None, within_s=60)  # noqa: B023 - called here


def intent_of(service: Service) -> Intent:
    """The wanted intent of a service that has one."""
    assert service.intent is not None
    return service.intent
