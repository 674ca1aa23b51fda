"""What the benchmarks stand on: our own tool's output, and the server that logs what arrived."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_ONE_RUN = """
import sys, tools
from pathlib import Path
body = tools.body_file(Path(sys.argv[1]))
with tools.truth_server() as url:
    tools.begin(url)
    outcome = tools.OURS.steady(tools.Job(url, body, 4, 0.5, 200, pinned=False))
    log = tools.log_of(url)
print(outcome.extra["ok"], len(log), all(0 < arrived <= read for arrived, read in log))
"""


def test_the_logging_server_saw_each_request_that_our_tool_counted(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ONE_RUN, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["100", "100", "True"]
