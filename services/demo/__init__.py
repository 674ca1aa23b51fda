"""Real models for the first minutes: trained here, registered with everything a team would log.

Four registered models, seven versions, from scikit-learn's bundled data sets and a made-up corpus;
nothing is downloaded. Each version has a signature, an input example, metrics, parameters, tags, a
description and requirements pinned to what is installed, so it runs in Slipway's own environment.

The wine models tell a story: version 1 is a weak start, version 2 is better and serves as
`champion`, version 3 is best and `challenger`, but it no longer takes the column `magnesium`: a
breaking change for callers of version 2. Seeding twice changes nothing; a seeding that was cut off
is taken up where it stopped. Only training and registering happen here; browsing is the registry's.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock, Timeout

from services.domain import RegisteredModel
from services.errors import ConfigError, Conflict, Unreachable, one_line
from services.ports import Report, no_report

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

EXPERIMENT = "slipway-demo"
_MARK = "slipway.demo"
"""Tag of the registered models and versions that this module made."""
_SEEDING, _COMPLETE = "seeding", "complete"
_LOCK_S = 300.0
"""Two seedings at once, say two browsers on a first start: the second waits for the first."""


class _Estimator(Protocol):
    """What is used of scikit-learn's estimators."""

    def fit(self, inputs: pd.DataFrame, truth: Any) -> Any: ...  # noqa: ANN401 - scikit-learn's

    def predict(self, inputs: pd.DataFrame) -> Any: ...  # noqa: ANN401 - scikit-learn's

    def predict_proba(self, inputs: pd.DataFrame) -> Any: ...  # noqa: ANN401 - scikit-learn's


@dataclass(frozen=True, slots=True)
class _Trained:
    """One trained model with all that is logged beside it."""

    log: Callable[[str], str]
    """Logs the model under a name into the active run; gives its models:/m-… address."""
    metrics: dict[str, float]
    params: dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class _Step:
    """One version to be: how it is trained, and what is said about it."""

    name: str
    description: str
    train: Callable[[], _Trained]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Story:
    """One registered model and its versions, oldest first."""

    model: str
    description: str
    tags: dict[str, str] = field(default_factory=dict)
    steps: tuple[_Step, ...] = ()


def seed(
    tracking_uri: str, artifact_root: Path | None = None, report: Report = no_report
) -> tuple[str, ...]:
    """Train and register the demo's models; the names of those that are there afterwards.

    `artifact_root` is the folder for their files; None leaves that to the tracking server. A model
    of the same name that somebody else made is left alone. ConfigError when a library is missing,
    Conflict when another seeding does not end, Unreachable.
    """
    missing = [name for name in ("scikit-learn", "skops", "lightgbm") if not _installed(name)]
    if missing:
        raise ConfigError(
            "The demo's models cannot be trained here.",
            why=f"Not installed: {', '.join(missing)}.",
            fix="Run `make setup`, or install Slipway with its extra slipway[local].",
        )
    report("starting MLflow", 0.0)
    with ExitStack() as stack:
        if artifact_root is not None:
            artifact_root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_alone(artifact_root.parent / "demo.lock"))
        client = stack.enter_context(_mlflow(tracking_uri))
        return _seed(client, artifact_root, report)


def is_seeded(models: Iterable[RegisteredModel]) -> bool:
    """True when `models` hold all that a seeding leaves: then there is no need to start MLflow."""
    complete = {model.name for model in models if model.tags.get(_MARK) == _COMPLETE}
    return complete >= {story.model for story in _stories()}


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_LOCK_S)
    except Timeout as error:
        raise Conflict(
            "The demo is being seeded elsewhere.",
            why=f"{path} has been held for {_LOCK_S:.0f} s.",
            fix="Wait for it to end, or stop the other `slipway demo`.",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _mlflow(tracking_uri: str) -> Iterator[MlflowClient]:
    """MLflow, quiet and pointed at the registry; the one door for its errors."""
    # Recorded, not only ignored: MLflow puts its own filter over ours and prints all the same.
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        import mlflow
        from mlflow import environment_variables as settings
        from mlflow.exceptions import MlflowException
        from mlflow.telemetry import set_telemetry_client

        # MLflow tells its choices to child processes through the environment: the dashboard that
        # takes this process's place would read them as the user's own settings.
        said = {
            variable: variable.get_raw()
            for variable in (
                settings.MLFLOW_TRACKING_URI,
                settings.MLFLOW_REGISTRY_URI,
                settings.MLFLOW_DISABLE_TELEMETRY,
                settings.MLFLOW_UV_AUTO_DETECT,
            )
        }
        settings.MLFLOW_DISABLE_TELEMETRY.set(True)  # a demo phones nobody
        set_telemetry_client()
        # The working folder is often a uv project, whose lock file is not the models'.
        settings.MLFLOW_UV_AUTO_DETECT.set(False)
        loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "sklearn")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        try:
            mlflow.set_tracking_uri(tracking_uri)
            mlflow.set_registry_uri(tracking_uri)
            yield mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)
        except (MlflowException, OSError) as error:
            raise Unreachable(
                "The demo's models could not be registered.",
                why=one_line(getattr(error, "message", error)),
                fix="Check the registry (`slipway doctor`) and free disk space, then run it again: "
                "it goes on where it stopped.",
            ) from error
        finally:
            mlflow.set_tracking_uri(before[0])
            mlflow.set_registry_uri(before[1])
            for variable, value in said.items():
                if value is None:
                    variable.unset()
                else:
                    variable.set(value)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _seed(client: MlflowClient, artifact_root: Path | None, report: Report) -> tuple[str, ...]:
    there: list[str] = []
    waiting: list[_Story] = []
    stories = _stories()
    for story in stories:
        mark = _mark_of(client, story.model)
        if mark is None or mark == _SEEDING:
            waiting.append(story)
        elif mark == "":
            report(f"{story.model} exists already and is not the demo's: left alone", None)
            continue
        there.append(story.model)
    total = sum(len(story.steps) for story in waiting)
    done = 0
    experiment = _experiment(client, artifact_root) if waiting else ""
    for story in waiting:
        if _mark_of(client, story.model) is None:
            client.create_registered_model(
                story.model, {**story.tags, _MARK: _SEEDING}, story.description
            )
        for step in story.steps:
            report(f"training {story.model}: {step.name}", done / total)
            _ensure_version(client, experiment, story, step)
            done += 1
        client.set_registered_model_tag(story.model, _MARK, _COMPLETE)
    report("the demo's models are registered", 1.0)
    return tuple(there)


def _mark_of(client: MlflowClient, model: str) -> str | None:
    """The demo's mark on a registered model; "" without a mark, None when there is no model."""
    found = client.search_registered_models(f"name = '{model}'", max_results=1)
    return str(found[0].tags.get(_MARK, "")) if found else None


def _experiment(client: MlflowClient, artifact_root: Path | None) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        location = artifact_root.resolve().as_uri() if artifact_root is not None else None
        return str(client.create_experiment(EXPERIMENT, artifact_location=location))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _ensure_version(client: MlflowClient, experiment: str, story: _Story, step: _Step) -> None:
    """Train, log and register one version, unless an earlier seeding did."""
    import mlflow

    for found in client.search_model_versions(f"name = '{story.model}'", max_results=1000):
        if found.tags.get(_MARK) == step.name:
            number = str(found.version)
            break
    else:
        trained = step.train()
        with mlflow.start_run(
            experiment_id=experiment, run_name=f"{story.model}: {step.name}", tags=story.tags
        ) as run:
            mlflow.log_params(trained.params)
            mlflow.log_metrics(trained.metrics)
            source = trained.log(story.model)
        made = client.create_model_version(
            story.model,
            source,
            run.info.run_id,
            tags={**story.tags, _MARK: step.name},
            description=step.description,
            model_id=source.removeprefix("models:/"),
        )
        number = str(made.version)
    for alias in step.aliases:
        client.set_registered_model_alias(story.model, alias, number)


# ── The models ────────────────────────────────────────────────────────────────────────────────


def _pinned(*distributions: str) -> list[str]:
    return [f"{name}=={version(name)}" for name in ("mlflow", *distributions)]


def _sklearn_log(
    model: _Estimator, example: pd.DataFrame, inputs: pd.DataFrame
) -> Callable[[str], str]:
    """A scikit-learn model, saved as MLflow saves it by default (skops)."""

    def log(name: str) -> str:
        import mlflow
        import skops.io

        info = mlflow.sklearn.log_model(
            model,
            name=name,
            signature=mlflow.models.infer_signature(inputs, model.predict(inputs)),
            input_example=example,
            pip_requirements=_pinned("scikit-learn", "skops", "numpy", "pandas", "scipy"),
            # It was trained a moment ago, here: nobody else has put a type into it.
            skops_trusted_types=skops.io.get_untrusted_types(data=skops.io.dumps(model)) or None,
        )
        return str(info.model_uri)

    return log


def _wine(columns_left_out: Sequence[str] = ()) -> tuple[pd.DataFrame, pd.DataFrame, Any, Any]:
    """The wine data set, split the same way every time: train and test inputs, then classes."""
    from sklearn.datasets import load_wine
    from sklearn.model_selection import train_test_split

    data = load_wine(as_frame=True)
    inputs = data.data.rename(columns={"od280/od315_of_diluted_wines": "od280_od315"})
    inputs = inputs.drop(columns=list(columns_left_out))
    parts = train_test_split(
        inputs, data.target, test_size=0.3, random_state=11, stratify=data.target
    )
    train, test, classes, truth = parts
    return train, test, classes, truth


def _scored(model: _Estimator, inputs: pd.DataFrame, truth: object) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    guessed = model.predict(inputs)
    return {
        "accuracy": round(float(accuracy_score(truth, guessed)), 4),
        "f1_macro": round(float(f1_score(truth, guessed, average="macro")), 4),
        "log_loss": round(float(log_loss(truth, model.predict_proba(inputs))), 4),
    }


def _wine_logistic() -> _Trained:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test, classes, truth = _wine()
    strength = 0.002  # so strongly held back that there is something left to improve
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    model.fit(train, classes)
    return _Trained(
        log=_sklearn_log(model, test.head(1), train),
        metrics=_scored(model, test, truth),
        params={"kind": "logistic regression", "C": strength, "scaled": "yes"},
    )


def _wine_forest() -> _Trained:
    from sklearn.ensemble import RandomForestClassifier

    train, test, classes, truth = _wine()
    model = RandomForestClassifier(n_estimators=60, max_depth=6, random_state=3).fit(train, classes)
    return _Trained(
        log=_sklearn_log(model, test.head(1), train),
        metrics=_scored(model, test, truth),
        params={"kind": "random forest", "n_estimators": 60, "max_depth": 6},
    )


def _wine_boosted() -> _Trained:
    from lightgbm import LGBMClassifier

    train, test, classes, truth = _wine(columns_left_out=["magnesium"])
    model = LGBMClassifier(
        n_estimators=80, num_leaves=15, learning_rate=0.08, n_jobs=1, random_state=3, verbose=-1
    ).fit(train, classes)

    def log(name: str) -> str:
        import mlflow

        info = mlflow.lightgbm.log_model(
            model,
            name=name,
            signature=mlflow.models.infer_signature(train, model.predict(train)),
            input_example=test.head(1),
            pip_requirements=_pinned(
                "lightgbm", "scikit-learn", "skops", "numpy", "pandas", "scipy"
            ),
        )
        return str(info.model_uri)

    return _Trained(
        log=log,
        metrics=_scored(model, test, truth),
        params={
            "kind": "gradient boosting",
            "n_estimators": 80,
            "num_leaves": 15,
            "learning_rate": 0.08,
        },
    )


def _diabetes(model: _Estimator, params: dict[str, str | int | float]) -> _Trained:
    from sklearn.datasets import load_diabetes
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
    from sklearn.model_selection import train_test_split

    data = load_diabetes(as_frame=True, scaled=False)
    inputs = data.data.rename(
        columns={
            "s1": "cholesterol",
            "s2": "ldl",
            "s3": "hdl",
            "s4": "cholesterol_ratio",
            "s5": "log_triglycerides",
            "s6": "glucose",
        }
    ).astype({"age": "int64", "sex": "int64"})
    train, test, target, truth = train_test_split(
        inputs, data.target, test_size=0.25, random_state=5
    )
    model.fit(train, target)
    guessed = model.predict(test)
    return _Trained(
        log=_sklearn_log(model, test.head(1), train),
        metrics={
            "rmse": round(float(root_mean_squared_error(truth, guessed)), 3),
            "mae": round(float(mean_absolute_error(truth, guessed)), 3),
            "r2": round(float(r2_score(truth, guessed)), 4),
        },
        params=params,
    )


def _diabetes_ridge() -> _Trained:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), Ridge(alpha=1.0))
    return _diabetes(model, {"kind": "ridge regression", "alpha": 1.0})


def _diabetes_forest() -> _Trained:
    from sklearn.ensemble import ExtraTreesRegressor

    model = ExtraTreesRegressor(n_estimators=80, min_samples_leaf=4, random_state=3)
    return _diabetes(model, {"kind": "extra trees", "n_estimators": 80, "min_samples_leaf": 4})


def _ticket_router() -> _Trained:
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline

    from services.demo.tickets import tickets

    texts, teams = zip(*tickets(), strict=True)
    train, test, classes, truth = train_test_split(
        pd.DataFrame({"text": pd.Series(texts, dtype=object)}),
        list(teams),
        test_size=0.3,
        random_state=2,
    )
    model = make_pipeline(
        make_column_transformer((TfidfVectorizer(ngram_range=(1, 2), min_df=2), "text")),
        LogisticRegression(C=5.0, max_iter=500),
    ).fit(train, classes)
    example = pd.DataFrame({"text": ["Hello, I was charged twice for the lamp. Please help."]})
    return _Trained(
        log=_sklearn_log(model, example, train),
        metrics=_scored(model, test, truth),
        params={"kind": "tf-idf and logistic regression", "C": 5.0, "ngrams": "1 to 2"},
    )


def _shipping() -> _Trained:
    import pandas as pd

    example = pd.DataFrame({"weight_kg": [2.5], "distance_km": [420.0], "express": [True]})
    defaults = {"fuel_surcharge_percent": 8.0, "discount_percent": 0.0, "decimals": 2}

    def log(name: str) -> str:
        import mlflow

        info = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(__file__).with_name("shipping.py")),
            signature=mlflow.models.infer_signature(
                example, pd.Series([9.42], name="price_eur").to_frame(), defaults
            ),
            input_example=example,
            pip_requirements=_pinned("numpy", "pandas"),
        )
        return str(info.model_uri)

    from services.demo.shipping import ShippingPrice

    rules: Any = ShippingPrice()
    usual, express = (
        float(rules.predict(None, example.assign(express=fast))[0]) for fast in (False, True)
    )
    return _Trained(
        log=log,
        metrics={"example_eur": usual, "example_express_eur": express},
        params={"kind": "price list"},
    )


def _stories() -> Sequence[_Story]:
    return (
        _Story(
            "wine",
            "Which of three cultivars a wine comes from, by chemical analysis.",
            {"data": "wine", "task": "classification"},
            (
                _Step(
                    "logistic",
                    "Logistic regression, held back strongly: the first that ran.",
                    _wine_logistic,
                ),
                _Step(
                    "forest",
                    "Random forest on the same 13 columns.",
                    _wine_forest,
                    aliases=("champion",),
                ),
                _Step(
                    "boosted",
                    "Gradient boosting. The laboratory no longer measures magnesium, so this "
                    "version takes 12 columns: callers of version 2 have to change.",
                    _wine_boosted,
                    aliases=("challenger",),
                ),
            ),
        ),
        _Story(
            "diabetes-progression",
            "How far diabetes has progressed after a year, from ten measurements.",
            {"data": "diabetes", "task": "regression"},
            (
                _Step("ridge", "Ridge regression on scaled measurements.", _diabetes_ridge),
                _Step(
                    "trees",
                    "Extremely randomised trees.",
                    _diabetes_forest,
                    aliases=("champion",),
                ),
            ),
        ),
        _Story(
            "ticket-router",
            "Which team answers a support ticket, from its text.",
            {"data": "made-up tickets", "task": "classification"},
            (
                _Step(
                    "tfidf",
                    "Word pairs and logistic regression.",
                    _ticket_router,
                    aliases=("champion",),
                ),
            ),
        ),
        _Story(
            "shipping-price",
            "The price of a parcel by rules, with parameters for surcharge and discount.",
            {"data": "price list", "task": "rules"},
            (_Step("rules", "Python code, no training.", _shipping, aliases=("champion",)),),
        ),
    )
