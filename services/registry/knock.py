"""Whether anything answers at the registry's address, told within a second.

MLflow's client takes seconds to import and its calls have seconds to answer; whoever waits for the
first list wants to know sooner that nothing is there. Only the standard library is used.
"""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

from services.errors import Unreachable
from services.network import causes, network_cause

LIMIT_S = 1.0
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


def knock(tracking_uri: str, limit_s: float = LIMIT_S) -> None:
    """Connect, and over plain HTTP see the first byte of an answer. Unreachable when none comes.

    Nothing is sent that names anybody: what is asked for is a path that needs no login. Names that
    resolve slowly count, as far as the system's resolver lets them be bounded.
    """
    parts = urlsplit(tracking_uri)
    scheme = parts.scheme.partition("+")[0]
    if not parts.hostname or scheme not in _PORTS:
        return
    until = time.monotonic() + limit_s
    port = parts.port or _PORTS[scheme]
    try:
        with socket.create_connection((parts.hostname, port), timeout=limit_s) as line:
            if scheme != "http":
                return
            line.settimeout(max(until - time.monotonic(), 0.05))
            path = f"{parts.path.rstrip('/')}/health"
            asked = f"GET {path} HTTP/1.0\r\nHost: {parts.hostname}\r\n\r\n"
            line.sendall(asked.encode("ascii", "replace"))
            line.recv(1)
    except OSError as error:
        silent = any(isinstance(cause, TimeoutError) for cause in causes(error))
        raise Unreachable(
            f"The registry at {scheme}://{parts.hostname}:{port} has not answered yet."
            if silent
            else f"The registry at {scheme}://{parts.hostname}:{port} cannot be reached.",
            why=network_cause(error, limit_s),
            fix="Check that it runs and that MLFLOW_TRACKING_URI names it (`slipway doctor`).",
        ) from error
