"""What a log says, on logs that real servers wrote (tests/samples/README.md says how)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.diagnosis import cause_of
from services.domain import Cause

SAMPLES = Path(__file__).parent.parent / "samples"


def diagnosed(sample: str, **known: object) -> Cause:
    lines = (SAMPLES / f"mlserver_{sample}.txt").read_text().splitlines()
    return cause_of(lines, where="wine release 3", **known)  # type: ignore[arg-type] # forwarded


@pytest.mark.parametrize(
    ("sample", "code", "what", "why"),
    [
        ("missing_package", "E1", "package statsmodels is missing", "do not list it"),
        ("skops_on_old", "E1", "cannot read a model that is saved as skops.", "MLflow 2.19.0"),
        ("numpy2_on_old", "E2", "numpy 2, and the server has numpy 1", "numpy 1 does not"),
        ("hist_on_old", "E2", "numpy 2, and the server has numpy 1", "numpy 2.4.6 is req"),
        ("class_of_main", "E1", "PriceRules", "__main__"),
        ("untrusted", "L6", "types that nobody has declared", "lightgbm.basic.Booster"),
        ("no_mlmodel", "L1", "no MLmodel", "/srv/models/no_mlmodel"),
        ("no_artifact", "L1", "file is missing", "/srv/models/no_artifact/model.skops"),
        ("no_folder", "L1", "files are gone", "/srv/models/nowhere"),
        ("bad_mlmodel", "L1", "MLmodel file cannot be read", "no YAML"),
        ("memory_error", "L3", "out of memory", "Unable to allocate 298. GiB"),
        ("port_taken", "L2", "Port 48977 is taken", "Another process"),
        ("grpc_port_taken", "L2", "Port 51157 is taken", "Another process"),
        ("bad_request", "E15", "does not fit the model's signature", "malic_acid"),
        ("raises", "", "The model raised an error", "the price table of 2019 is empty"),
    ],
)
def test_a_recorded_failure_is_recognised(sample: str, code: str, what: str, why: str) -> None:
    cause = diagnosed(sample)
    assert cause.code == code
    assert what in cause.what
    assert why in cause.why


@pytest.mark.parametrize("sample", ["pickle_on_old", "forest_on_old"])
def test_warnings_of_a_model_that_loaded_are_no_cause(sample: str) -> None:
    assert "does not say why" in diagnosed(sample).what


def test_every_recognised_cause_has_a_fix_and_shows_its_evidence() -> None:
    for path in SAMPLES.glob("mlserver_*.txt"):
        cause = cause_of(path.read_text().splitlines(), where="wine release 3")
        assert cause.fix, path.name
        assert 0 < len(cause.evidence) <= 20, path.name


def test_a_package_that_the_requirements_list_is_the_environments_fault() -> None:
    cause = diagnosed("missing_package", requirements=("Stats_Models==0.14", "statsmodels>=0.14"))
    assert "the environment lacks it" in cause.why


def test_a_kill_from_outside_is_told_from_a_crash() -> None:
    killed = diagnosed("killed", signal=9)
    assert "killed by signal 9 (SIGKILL)" in killed.what
    assert "killed by signal 11 (SIGSEGV)" in cause_of([], where="", exit_code=139).what


@pytest.mark.parametrize("exit_code", [137, -9])
def test_an_exit_code_can_be_a_signal(exit_code: int) -> None:
    assert "signal 9" in cause_of(["Started"], where="", exit_code=exit_code).what


def test_what_the_kernel_knows_beats_the_log() -> None:
    cause = diagnosed("killed", signal=9, out_of_memory=True)
    assert (cause.code, cause.what) == ("L3", "The model server ran out of memory.")


def test_the_kernels_own_line_says_out_of_memory() -> None:
    line = "[ 2321.063064] Out of memory: Killed process 29171 (mlserver) total-vm:313517248kB"
    assert cause_of([line], where="", signal=9).code == "L3"


@pytest.mark.parametrize(
    ("line", "code", "what"),
    [
        ("ModuleNotFoundError: No module named 'sklearn'", "E1", "scikit-learn is missing"),
        (
            "ImportError: cannot import name 'x' from 'pandas.core' (/a.py)",
            "E1",
            "version of pandas",
        ),
        ("OSError: libgomp.so.1: cannot open shared object file: No such", "L5", "libgomp.so.1"),
        ("ValueError: unsupported pickle protocol: 5", "E1", "another Python"),
        ("TypeError: code() argument 13 must be str, not int", "E1", "another Python"),
        ("OSError: [Errno 28] No space left on device: '/tmp/x'", "L7", "disk is full"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "L3", "memory"),
        ("PermissionError: [Errno 13] Permission denied: '/m'", "L8", "may not read or write"),
    ],
)
def test_one_line_is_enough(line: str, code: str, what: str) -> None:
    cause = cause_of(["INFO started", line], where="")
    assert cause.code == code
    assert what in cause.what


def test_the_first_concrete_cause_wins_over_what_follows_from_it() -> None:
    lines = ["ModuleNotFoundError: No module named 'xgboost'", "", "RuntimeError: load failed"]
    assert "xgboost" in cause_of(lines, where="").what


def test_hostile_text_in_a_log_stays_one_printable_line() -> None:
    cause = cause_of(["ValueError: \x1b[2Jred\u202eevil\r\n::error::x" + "y" * 9000], where="")
    for text in (cause.what, cause.why, *cause.evidence):
        assert text.isprintable()
        assert len(text) <= 256


@given(st.lists(st.text()), st.none() | st.integers(-300, 300), st.none() | st.integers(0, 200))
def test_no_log_and_no_ending_breaks_it(
    lines: list[str], exit_code: int | None, signal: int | None
) -> None:
    cause = cause_of(lines, where="x", exit_code=exit_code, signal=signal)
    assert cause.what
    assert cause.fix
