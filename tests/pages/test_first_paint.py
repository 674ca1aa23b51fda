"""What the first page costs: nothing that it does not show is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import sys
from streamlit.testing.v1 import AppTest
from dashboard import wiring
from tests.memory import World
from tests.pages.conftest import WorldConnections
world = World()
world.serves("wine", [1])
wiring.use(WorldConnections(world))
app = AppTest.from_file("dashboard/app.py", default_timeout=120).run()
assert not app.exception and not app.error, app.error
heavy = {"mlflow", "kubernetes", "google.cloud", "sqlalchemy", "sklearn"}
print(",".join(sorted(heavy & set(sys.modules))))
"""


def test_the_first_page_imports_no_heavy_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
