"""Where a driver connects: master info, the endpoint of a daemon, and what may stand there instead."""

from __future__ import annotations

import http.server
import json
import os
import socket
import stat
import threading

import pytest
import yr
from yr import _discovery, _temporary
from yr._settings import Address

LINE = (
    "local_ip:127.0.0.1,master_ip:127.0.0.2,etcd_ip:127.0.0.2,etcd_port:1,"
    "global_scheduler_port:22770,bus:22773,ds-worker:31501,\n"
)


@pytest.fixture
def daemon(tmp_path):
    """A daemon's HTTP port that answers with ``daemon.answer``; its address is ``daemon.address``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = server.answer if self.path == "/yr/v1/endpoint" else b"{}"
            self.send_response(server.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.status = 200
    server.socket_path = tmp_path / "yr.sock"
    server.socket_path.touch()
    server.answer = json.dumps({"socket": str(server.socket_path), "boot_id": _discovery._boot_id()}).encode()
    server.address = Address("127.0.0.1", server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_master_info():
    info = _discovery.parse_master_info(LINE)
    assert str(info.server) == "127.0.0.1:22773"
    assert info.masters == ["127.0.0.2:22770"]


def test_master_info_of_several_masters():
    info = _discovery.parse_master_info(LINE.strip() + "etcd_addr_list:127.0.0.3:1,etcd_addr_list:127.0.0.4:1,")
    assert info.masters == ["127.0.0.3:22770", "127.0.0.4:22770"]


@pytest.mark.parametrize("line", ["", "nonsense", "local_ip:127.0.0.1,", "local_ip:127.0.0.1,bus:port,"])
def test_incomplete_master_info(line, tmp_path):
    with pytest.raises(ValueError):
        _discovery.parse_master_info(line)
    path = tmp_path / "info"
    path.write_text(line)
    assert _discovery.read_master_info(str(path)) is None


def test_a_daemon_tells_its_socket(daemon):
    endpoint = _discovery.ask(daemon.address)
    assert endpoint.socket == str(daemon.socket_path)


def test_proxies_are_ignored(daemon, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    _discovery.ask(daemon.address)


@pytest.mark.parametrize("changes", [{"boot_id": "another"}, {"socket": "/no/such/socket"}])
def test_a_daemon_of_another_machine_is_not_for_this_driver(daemon, changes):
    daemon.answer = json.dumps({**json.loads(daemon.answer), **changes}).encode()
    with pytest.raises(yr.YRValueError, match="another machine") as raised:
        _discovery.ask(daemon.address)
    assert raised.value.code == 4002


@pytest.mark.parametrize("answer", [b"hello", b"[]", b"{}", b"null"])
def test_something_else_answers(daemon, answer):
    daemon.answer = answer
    with pytest.raises(yr.YRValueError, match=r"^failed to init, code: 4002, module code: 20, msg: .*is no yr daemon"):
        _discovery.ask(daemon.address)


def test_an_error_status_is_shown(daemon):
    daemon.status = 503
    with pytest.raises(yr.YRValueError, match="answers 503"):
        _discovery.ask(daemon.address)


def test_something_that_does_not_speak_http():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x00\x01garbage\r\n\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(yr.YRValueError, match="code: 4002"):
            _discovery.ask(Address("127.0.0.1", server.getsockname()[1]))
        thread.join()


def test_init_where_nobody_listens():
    port = free_port()
    with pytest.raises(yr.YRValueError) as raised:
        yr.init(yr.Config(server_address=f"127.0.0.1:{port}"))
    text = str(raised.value)
    assert text.startswith(f"failed to init, code: 4002, module code: 20, msg: nobody answers at 127.0.0.1:{port}")
    assert isinstance(raised.value, ValueError) and not yr.is_initialized()


def test_tls_is_refused_with_what_to_do(daemon):
    with pytest.raises(yr.YRValueError, match=r"code: 4002.*enable_tls=False"):
        yr.init(yr.Config(server_address=str(daemon.address), enable_tls=True))


def test_master_info_in_the_environment_is_meant(monkeypatch):
    monkeypatch.setenv("YR_MASTER_INFO", f"local_ip:127.0.0.1,bus:{free_port()},")
    with pytest.raises(yr.YRValueError, match="nobody answers"):
        yr.init()


def executable(directory, text: str) -> None:
    path = directory / "yr"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def nothing_runs(monkeypatch, tmp_path):
    """No cluster and no yr command but what the test puts into the directory returned."""
    monkeypatch.setenv("YR_MASTER_INFO_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(_temporary.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return tmp_path


def test_without_the_command_init_says_where_it_looked(nothing_runs):
    with pytest.raises(yr.YRValueError, match=r"code: 4002.*no `yr` command.*PATH"):
        yr.init()


@pytest.mark.parametrize("script, text", [("echo broken >&2; exit 3", "exit code 3"), ("echo nonsense", "exit code 0")])
def test_a_temporary_cluster_that_fails_shows_its_output(nothing_runs, script, text):
    executable(nothing_runs, script)
    with pytest.raises(yr.YRValueError, match=f"(?s)did not start.*{text}.*(broken|nonsense)"):
        yr.init()
    assert not yr.is_initialized()


def test_a_temporary_cluster_that_hangs_is_given_up(nothing_runs, monkeypatch):
    monkeypatch.setattr(_temporary, "START_TIMEOUT", 0.2)
    executable(nothing_runs, "exec sleep 60")
    with pytest.raises(yr.YRValueError, match="was not ready after"):
        yr.init()


def test_num_cpus_reaches_the_command(nothing_runs):
    executable(nothing_runs, 'echo "$@" >&2; exit 1')
    with pytest.raises(yr.YRValueError, match=rf"--temporary --owner-pid {os.getpid()} .*--cpu_num 3000"):
        yr.init(yr.Config(num_cpus=3))
