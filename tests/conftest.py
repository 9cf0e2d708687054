"""What holds for every test: no network, few threads, caches in a folder that is thrown away.

Everything is set in the environment before torch is imported, so that processes which a test starts
inherit it.
"""

import ipaddress
import os
import shutil
import socket
import tempfile
from typing import Any

import pytest

CACHE_VARIABLES = ("D2_UNSUPDET_CACHE", "FVCORE_CACHE", "TORCH_HOME")
_OWN = "D2_UNSUPDET_TEST_ROOT"  # set once: pytest-xdist's workers share the folder of their parent


def pytest_configure(config: pytest.Config) -> None:
    """Set up the environment of the session, and of every process it starts."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("DETECTRON2_DATASETS", None)  # no test may depend on the data of this machine
    if _OWN not in os.environ:
        root = tempfile.mkdtemp(prefix="d2_unsupdet-tests-")
        config.add_cleanup(lambda: _remove(root))
        os.environ[_OWN] = root
        for name in CACHE_VARIABLES:
            os.environ[name] = os.path.join(root, name.lower())


def _remove(root: str) -> None:
    os.environ.pop(_OWN, None)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, connect_ex, getaddrinfo = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def guarded(original: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family != socket.AF_UNIX:
                _check(address[0])
            return original(self, address)

        return call

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        _check(host)
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)


def _check(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return
    try:
        allowed = ipaddress.ip_address(name).is_loopback
    except ValueError:
        allowed = False
    if not allowed:
        raise RuntimeError(f"A test tried to reach {name}: tests do not use the network.")
