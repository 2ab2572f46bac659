"""Finds the Unix socket of this machine's daemon.

Given an address, the daemon is asked where its socket is (``GET /yr/v1/endpoint``). Without
one, the master info says which address to ask: a line of ``key:value`` pairs in the
environment variable ``YR_MASTER_INFO``, or in a file that every running cluster keeps.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from yr._settings import Address, check_address
from yr.err_type import ErrorCode, ErrorInfo, ModuleCode
from yr.exception import YRError, YRValueError

DEFAULT_MASTER_INFO_PATH = "/tmp/yr_sessions/yr_current_master_info"
_TIMEOUT = 5.0  # seconds, for one request to a daemon
_MAX_ANSWER = 64 << 10
_ENDPOINT_PATH = "/yr/v1/endpoint"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Endpoint:
    """Where a daemon of this machine listens for SDK sessions."""

    socket: str
    address: str


@dataclass(frozen=True)
class MasterInfo:
    """The parts of the master info that an SDK needs."""

    server: Address
    masters: list[str]


class NobodyListens(YRValueError):
    """The address is right, but no daemon answers there."""


def connection_error(text: str, cls: type[YRError] = YRValueError) -> YRError:
    """``failed to init, code: 4002, module code: 20, msg: <text>``."""
    info = ErrorInfo(ErrorCode.ERR_INIT_CONNECTION_FAILED, ModuleCode.RUNTIME, text)
    return cls.from_error_info(info, "failed to init")


def inherited() -> Endpoint | None:
    """The daemon that runs the worker which started this program; None elsewhere."""
    socket = os.environ.get("YR_AGENT_SOCKET", "")  # set by yr._worker.main
    return Endpoint(socket, socket) if socket and os.path.exists(socket) else None


def master_info_path() -> str:
    """The file that names the current cluster of this machine."""
    return os.environ.get("YR_MASTER_INFO_PATH") or DEFAULT_MASTER_INFO_PATH


def read_master_info(path: str) -> MasterInfo | None:
    """The master info in the first line of a file; None if there is no complete one."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_master_info(file.readline())
    except (OSError, ValueError):
        return None


def parse_master_info(line: str) -> MasterInfo:
    """Read ``local_ip:1.2.3.4,bus:22773,...``; keys may repeat, unknown ones are skipped.

    Raises:
        ValueError: it does not say where the daemon of this machine listens.
    """
    fields: dict[str, list[str]] = {}
    for pair in line.strip().split(","):
        key, _, value = pair.partition(":")
        if key and value:
            fields.setdefault(key.strip(), []).append(value.strip())
    local_ip, bus = fields.get("local_ip"), fields.get("bus")
    if not local_ip or not bus:
        raise ValueError(f"invalid master info {line.strip()!r}: local_ip and bus are needed")
    hosts = fields.get("etcd_addr_list") or fields.get("master_ip") or []
    ports = fields.get("global_scheduler_port") or []
    masters = [f"{host.split(':')[0]}:{ports[0]}" for host in hosts] if ports else []
    return MasterInfo(check_address(f"{local_ip[0]}:{bus[0]}"), masters)


def ask(server: Address, tls: bool = False) -> Endpoint:
    """Ask the daemon at this address for the Unix socket of its SDK sessions.

    Raises:
        NobodyListens: (4002) the connection is refused or times out.
        YRValueError: (4002) something else answers, or the daemon is on another machine.
    """
    if tls:
        raise connection_error(
            f"TLS is asked for, but the daemon at {server} serves SDK sessions on a Unix socket without it; "
            "set Config(enable_tls=False, enable_mtls=False)"
        )
    answer = _get(server)
    try:
        socket, boot = answer["socket"], answer["boot_id"]
    except (TypeError, KeyError):
        raise connection_error(f"what answers at {server} is no yr daemon; check the address") from None
    if boot != _boot_id() or not os.path.exists(socket):
        raise connection_error(
            f"the daemon at {server} runs on another machine (or in another container). A driver needs a daemon "
            f"of its own machine: run `yr start --join {server}` here and call yr.init() without an address, "
            "or run this program there"
        )
    return Endpoint(socket, str(server))


def _get(server: Address) -> Any:
    status, reason, body = _request(server, tls=False)
    if status == 400 and b"TLS" in body:  # a daemon with values.fs.tls says so to plain HTTP
        status, reason, body = _request(server, tls=True)
    if status != 200:
        raise connection_error(f"the daemon at {server} answers {status} {reason}")
    try:
        return json.loads(body)
    except ValueError:
        raise connection_error(f"what answers at {server} is no yr daemon; check the address") from None


def _request(server: Address, tls: bool) -> tuple[int, str, bytes]:
    """Ask without proving anything: the answer is public, and names a Unix socket of this machine.

    A certificate would be of no use. Whoever can answer at an address of this machine runs on it, and
    the socket's own permissions, and the boot id, say whether it is a daemon that this user may use.
    """
    import http.client

    peer, path = (server.host, server.port), _ENDPOINT_PATH
    proxy = _proxy()
    if proxy and not tls:
        peer, path = proxy, f"http://{server}{_ENDPOINT_PATH}"
    if tls:
        import ssl

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: Any = http.client.HTTPSConnection(*peer, timeout=_TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(*peer, timeout=_TIMEOUT)
    try:
        connection.request("GET", path, headers={"Host": str(server)})
        response = connection.getresponse()
        return response.status, response.reason, response.read(_MAX_ANSWER)
    except OSError as e:
        reason = e.strerror or str(e) or type(e).__name__
        raise connection_error(
            f"nobody answers at {server} ({reason}); start a cluster with `yr start --master`, or check the address",
            NobodyListens,
        ) from e
    except http.client.HTTPException as e:
        raise connection_error(f"what answers at {server} is no yr daemon ({type(e).__name__})") from e
    finally:
        connection.close()


def _proxy() -> tuple[str, int] | None:
    """The HTTP proxy of the environment, which is ignored unless asked for: a daemon is a neighbour."""
    if os.environ.get("YR_ENABLE_HTTP_PROXY", "").lower() != "true":
        return None
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    proxy = urlsplit(getproxies().get("http", ""))
    return (proxy.hostname, proxy.port or 80) if proxy.hostname else None


def _boot_id() -> str:
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()
