"""RAY_ADDRESS is tried before any work: an address at which there is no cluster is one sentence."""

import http.server
import socket
import threading
from contextlib import contextmanager

import pytest
import ray

from ndsm.cli import main
from ndsm.errors import InputError
from pipelines.address import check_address, ray_address


@contextmanager
def listening():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


@pytest.fixture(autouse=True)
def not_joined(monkeypatch):
    """As in a process of its own: other tests of this one may have started a cluster."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.fixture
def address(monkeypatch):
    return lambda value: monkeypatch.setenv("RAY_ADDRESS", value)


@pytest.fixture
def dead(address):
    with listening() as server:
        port = server.getsockname()[1]
    address(f"127.0.0.1:{port}")
    return f"127.0.0.1:{port}"


def test_a_dead_address_is_one_sentence(dead):
    with pytest.raises(InputError, match=f"head of a Ray cluster at {dead}, found connection refused; unset"):
        check_address()


@pytest.mark.parametrize(
    "args",
    [["train", "toy-arcs"], ["tune", "toy-arcs", "--trials", "1"], ["reproduce", "fig2", "--scale", "0.001"]],
)
def test_nothing_is_read_or_written_for_a_dead_address(args, dead, tmp_path, capsys):
    assert main([*args, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ndsm: RAY_ADDRESS: expected the head of a Ray cluster at {dead}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheme", ["ray", "http"])
def test_a_clients_address_is_refused_with_the_way_that_works(scheme, address):
    address(f"{scheme}://there:10001")
    with pytest.raises(InputError, match="ray job submit --address http://there:8265 -- ndsm"):
        check_address()


@pytest.mark.parametrize("value", ["there", "there:", ":6379", "there:port", "10.0.0.1:99999999"])
def test_what_is_no_address_is_refused(value, address):
    address(value)
    with pytest.raises(InputError, match="RAY_ADDRESS: expected"):
        check_address()


def test_a_web_server_is_no_head(address):
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address(f"127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(InputError, match="found a web server"):
            check_address()
    finally:
        server.shutdown()
        server.server_close()


def test_a_head_that_says_nothing_yet_is_left_to_ray(address, monkeypatch):
    monkeypatch.setattr("pipelines.address.ANSWER_SECONDS", 0.2)
    with listening() as server:
        address(f"127.0.0.1:{server.getsockname()[1]}")
        check_address()


@pytest.mark.parametrize("value", ["", " ", "local"])
def test_no_address_means_a_cluster_on_this_machine(value, address):
    address(value)
    assert ray_address() is None
    check_address()
