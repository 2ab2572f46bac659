"""Fills a ``Config`` from the environment and checks it, before anything is connected.

The order is the interface's: what the program set, then the environment, then a default.
The object that the program passed in is changed, as upstream changes it; addresses that
were discovered are not written back, so that the next round discovers again.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

from yr.config import Config
from yr.err_type import ErrorCode
from yr.exception import YRRuntimeError

SERVER_PORT_IN_CLUSTER = 21003
DS_PORT_IN_CLUSTER = 31501
PORT_OFF_CLUSTER = 31222

_URN_PARTS = 7
_MAX_RECYCLE = 300  # seconds
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_KEY_FIELDS = ("ds_public_key_path", "runtime_public_key_path", "runtime_private_key_path")

# Config field -> environment variable, for fields whose unset value is the empty string.
_TEXT_VARIABLES = {
    "function_id": "YRFUNCID",
    "cpp_function_id": "YR_CPP_FUNCID",
    "server_address": "YR_SERVER_ADDRESS",
    "ds_address": "YR_DS_ADDRESS",
    "log_level": "YR_LOG_LEVEL",
    "rt_server_address": "POSIX_LISTEN_ADDR",
    "private_key_path": "YR_PRIVATE_KEY_FILE",
    "certificate_file_path": "YR_CERT_FILE",
    "verify_file_path": "YR_VERIFY_FILE",
    "server_name": "YR_SERVER_NAME",
    "tenant_id": "YR_TENANT_ID",
    "working_dir": "YR_WORKING_DIR",
    "auth_token": "YR_JWT_TOKEN",
}


@dataclass(frozen=True)
class Address:
    """``host:port`` of a daemon, and how it was written."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def fill(conf: Config) -> None:
    """Fill unset fields from ``env_file``, the environment and the defaults.

    Raises:
        ValueError: a value is malformed; the text names it.
        TypeError: a value has the wrong type.
        YRRuntimeError: local mode, which this version does not have.
    """
    if conf.local_mode:
        raise YRRuntimeError(
            code=ErrorCode.ERR_INCORRECT_INIT_USAGE,
            message="local_mode is not supported by this version of yr; "
            "without it, yr.init() starts a temporary cluster on this machine by itself",
        )
    if conf.env_file:
        _read_env_file(conf.env_file)
    if not _flag("YR_DATASYSTEM_DEPLOYED", default=True) and not (
        conf.bypass_datasystem or _flag("YR_BYPASS_DATASYSTEM")
    ):
        raise YRRuntimeError(
            code=ErrorCode.ERR_PARAM_INVALID,
            message="YR_DATASYSTEM_DEPLOYED is false, but every yr daemon is a data system; unset it",
        )
    for name, variable in _TEXT_VARIABLES.items():
        if getattr(conf, name) == "":
            setattr(conf, name, os.environ.get(variable, ""))
    if conf.function_id == "":
        conf.function_id = "sn:cn:yrk:default:function:0-defaultservice-py{}{}:$latest".format(*sys.version_info)
    for urn in (conf.function_id, conf.cpp_function_id):
        if urn and len(urn.split(":")) != _URN_PARTS:
            raise ValueError(f"invalid function id {urn}")
    if conf.log_level == "":
        conf.log_level = "WARNING"
    if conf.log_dir in ("", "./"):
        conf.log_dir = os.environ.get("YR_LOG_PATH") or "./"
    if _flag("YR_APP_MODE"):
        conf.is_driver = False
    if not conf.tenant_id:
        conf.tenant_id = _tenant_of(conf.auth_token)
    _check_numbers(conf)
    if not isinstance(conf.custom_envs, dict):
        raise TypeError(f"invalid type for 'custom_envs', actual: {type(conf.custom_envs)}, expect: {dict}")
    if conf.enable_ds_encrypt:
        for name in _KEY_FIELDS:
            if not getattr(conf, name):
                raise ValueError(f"enable_ds_encrypt needs {name}")


def locate(conf: Config) -> Address | None:
    """Settle ``in_cluster`` and return the server address, None if it must be discovered.

    Raises:
        ValueError: an address is malformed; the text names it.
    """
    scheme, address = _split_scheme(conf.server_address)
    if scheme:
        conf.server_address = address
        conf.in_cluster = scheme == "grpc"
    elif conf.in_cluster is None:
        conf.in_cluster = _flag("YR_IN_CLUSTER", default=not (address and not conf.ds_address))
    _settle_tls(conf, scheme)
    if not address:
        if conf.is_driver:
            return None
        check_address("")
    server = check_address(address, SERVER_PORT_IN_CLUSTER if conf.in_cluster else PORT_OFF_CLUSTER)
    if not conf.in_cluster and not conf.ds_address:
        conf.ds_address = str(server)
    if not (scheme and not conf.ds_address):  # with grpc:// the daemon itself is the data system
        check_address(conf.ds_address, DS_PORT_IN_CLUSTER if conf.in_cluster else PORT_OFF_CLUSTER)
    if conf.enable_tls and not conf.server_name:
        conf.server_name = server.host
    return server


def check_address(text: str, default_port: int = 0) -> Address:
    """Parse ``host:port`` or, with a default port, a bare IP address.

    Raises:
        ValueError: naming the address and what is wrong with it.
    """
    if not text:
        raise ValueError(
            "invalid address: it is empty; set Config.server_address and Config.ds_address, "
            "or the environment variables YR_SERVER_ADDRESS and YR_DS_ADDRESS"
        )
    host, colon, port = text.rpartition(":")
    if not colon:
        if not default_port or not _is_ipv4(text):
            raise ValueError(f"invalid address {text!r}: expect host:port")
        return Address(text, default_port)
    if not port.isascii() or not port.isdigit():
        raise ValueError(f"invalid address {text!r}: port {port!r} is not an integer")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"invalid address {text!r}: port {port} is outside 1 to 65535")
    if not _is_ipv4(host) and not _is_domain(host):
        raise ValueError(f"invalid address {text!r}: host {host!r} is neither an IPv4 address nor a domain name")
    return Address(host, int(port))


def worker_environment(conf: Config) -> dict[str, str]:
    """What ``custom_envs`` puts into the environment of this job's workers."""
    value = conf.custom_envs.get("LD_LIBRARY_PATH")
    return {} if value is None else {"LD_LIBRARY_PATH": str(value)}


def code_paths(conf: Config) -> list[str]:
    """Where workers of this job look for modules, first first.

    ``load_paths`` and ``working_dir``, then this program's own search path without the
    interpreter's directories, which a worker has of itself.
    """
    own = [os.path.abspath(path) for path in sys.path]
    interpreter = tuple({os.path.abspath(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)})
    paths = [os.path.abspath(p) for p in [*conf.load_paths, conf.working_dir] if p]
    paths += [p for p in own if os.path.isdir(p) and not _inside(p, interpreter)]
    return list(dict.fromkeys(paths))


def _inside(path: str, roots: tuple[str, ...]) -> bool:
    # Only lib directories: a project may well live in the prefix (/usr, or a checkout with its .venv).
    return any(path.startswith(os.path.join(root, "lib")) for root in roots)


def _check_numbers(conf: Config) -> None:
    if isinstance(conf.connection_nums, bool) or not isinstance(conf.connection_nums, int):
        raise TypeError(f"invalid type for 'connection_nums', actual: {type(conf.connection_nums)}, expect: {int}")
    if conf.connection_nums < 1:
        raise ValueError(f"invalid connection_nums, actual: {conf.connection_nums}, expect: > 0")
    if isinstance(conf.recycle_time, bool) or not isinstance(conf.recycle_time, (int, float)):
        raise TypeError(f"invalid type for 'recycle_time', actual: {type(conf.recycle_time)}, expect: {int}")
    if not 0 < conf.recycle_time <= _MAX_RECYCLE:
        raise ValueError(f"invalid recycle_time, actual: {conf.recycle_time}, expect: (0, {_MAX_RECYCLE}] seconds")
    if conf.num_cpus is not None:
        if isinstance(conf.num_cpus, bool) or not isinstance(conf.num_cpus, int):
            raise TypeError(f"invalid type for 'num_cpus', actual: {type(conf.num_cpus)}, expect: {int}")
        if conf.num_cpus < 1:
            raise ValueError(f"invalid num_cpus, actual: {conf.num_cpus}, expect: > 0")


def _split_scheme(address: str) -> tuple[str, str]:
    for scheme in ("http", "https", "grpc"):
        if address.startswith(scheme + "://"):
            return scheme, address[len(scheme) + 3 :].rstrip("/")
    return "", address


def _settle_tls(conf: Config, scheme: str) -> None:
    if conf.enable_mtls is None:
        conf.enable_mtls = _flag("YR_ENABLE_MTLS")
    if conf.enable_tls is None:
        token_outside = bool(conf.auth_token) and not conf.in_cluster and scheme != "http"
        conf.enable_tls = scheme == "https" or _flag("YR_ENABLE_TLS", default=token_outside)


def _flag(variable: str, default: bool = False) -> bool:
    value = os.environ.get(variable, "").strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    return default


def _read_env_file(path: str) -> None:
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as e:
        raise ValueError(f"invalid env_file {path!r}: {e.strerror}") from None
    for line in lines:
        entry = line.strip()
        if entry and not entry.startswith("#"):
            key, equals, value = entry.partition("=")
            if not equals or not key.strip():
                raise ValueError(f"invalid env_file {path!r}: {entry!r} is not KEY=VALUE")
            os.environ[key.strip()] = value.strip()


def _tenant_of(token: str) -> str:
    """``sub`` of a JWT, whose signature the cluster checks; "" for another kind of token."""
    parts = token.split(".")
    if len(parts) != 3:
        return ""
    try:
        payload: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return str(payload.get("sub", ""))
    except (ValueError, AttributeError):
        return ""


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_domain(host: str) -> bool:
    labels = host.split(".")
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()
