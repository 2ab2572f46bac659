"""Opens the runtime of a driver: find the daemon, or start one, and connect to it."""

from __future__ import annotations

import os
import secrets
import sys

from yr import _discovery, _settings
from yr._core.runtime import Runtime
from yr._discovery import Endpoint
from yr._temporary import TemporaryCluster
from yr.config import Config
from yr.exception import YRError
from yr.log import get_logger, init_logger

_DRIVER = 1  # yr.Role


def open_driver(conf: Config) -> tuple[Runtime, TemporaryCluster | None]:
    """Connect this process as a driver.

    Args:
        conf: as the program gave it; unset fields are filled.

    Returns:
        The runtime, and the temporary cluster if one had to be started.

    Raises:
        ValueError, TypeError: a setting is malformed.
        YRValueError: (4002) there is no connection; the text says why and what to do.
    """
    _settings.fill(conf)
    init_logger(conf.log_level, conf.logger)
    endpoint, temporary = _find(conf)
    try:
        runtime = _connect(conf, endpoint)
    except BaseException:
        if temporary is not None:
            temporary.stop()
        raise
    conf.private_key_paaswd = ""
    return runtime, temporary


def _find(conf: Config) -> tuple[Endpoint, TemporaryCluster | None]:
    """The interface's order: the address, the master info, a temporary cluster; in between, a worker's own node."""
    server = _settings.locate(conf)
    if server is not None:
        return _discovery.ask(server, tls=bool(conf.enable_tls or conf.enable_mtls)), None
    line = os.environ.get("YR_MASTER_INFO")
    if line:
        return _discovery.ask(_discovery.parse_master_info(line).server), None
    endpoint = _discovery.inherited()
    if endpoint is not None:
        return endpoint, None
    path = _discovery.master_info_path()
    info = _discovery.read_master_info(path)
    if info is not None:
        try:
            return _discovery.ask(info.server), None
        except _discovery.NobodyListens:
            get_logger().info("%s is stale: nobody answers at %s", path, info.server)
            print(f"yr: {path} is left from a cluster that is gone ({info.server})", file=sys.stderr)
    temporary = TemporaryCluster(conf.num_cpus)
    return temporary.start(), temporary


def _connect(conf: Config, endpoint: Endpoint) -> Runtime:
    try:
        return Runtime.connect(
            endpoint.socket,
            role=_DRIVER,
            job=conf.job_id or f"job-{secrets.token_hex(4)}",
            token=conf.auth_token,
            tenant=conf.tenant_id,
            namespace=conf.ns,
            recycle_ms=int(conf.recycle_time * 1000),
            max_workers=conf.max_task_instance_num,
            code_paths=_settings.code_paths(conf),
            env_vars=_settings.worker_environment(conf),
            command=os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python",
        )
    except YRError:
        raise
    except OSError as e:
        raise _discovery.connection_error(
            f"cannot open a session at {endpoint.socket}: {e.strerror or e}; is the daemon alive (`yr status`)?"
        ) from e
