"""Whether anything answers at the registry's address, asked of real sockets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from services.errors import Unreachable
from services.registry.knock import knock
from tests.contract.mlflow_servers import black_hole, free_port, raw, scripted


def test_an_address_where_nothing_listens_is_told_with_its_cause() -> None:
    with pytest.raises(Unreachable, match="cannot be reached") as caught:
        knock(f"http://127.0.0.1:{free_port()}")
    assert caught.value.why == "The connection was refused: nothing listens there."


def test_a_server_that_takes_connections_and_says_nothing_is_told() -> None:
    with raw(black_hole) as address, pytest.raises(Unreachable, match="not answered yet") as caught:
        knock(address, 0.2)
    assert caught.value.why == "No answer within 0.2 s."


def test_a_server_that_answers_anything_passes() -> None:
    with scripted(lambda _path: (404, {})) as (address, asked):
        knock(f"{address}/mlflow")
    assert asked == ["/mlflow/health"]


@pytest.mark.parametrize("uri", ["sqlite:////tmp/mlflow.db", "databricks", ""])
def test_what_has_no_address_is_not_knocked_at(uri: str) -> None:
    knock(uri)


def test_a_knock_imports_no_client() -> None:
    script = "import sys, services.registry.knock; print('mlflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
