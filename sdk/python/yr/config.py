"""What a program may say about its connection, its calls and its objects.

Plain data, as openYuanrong's Python interface defines it: the same fields in the same
order with the same defaults. How the settings become wire options, and which of them
this version cannot honour yet, is in ``yr._options``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

MAX_INT32 = 0x7FFFFFFF


@dataclass
class ClientInfo:
    """What ``yr.init`` returns.

    Attributes:
        job_id: the job of this driver, ``job-`` and 8 hexadecimal digits.
    """

    job_id: str = ""


@dataclass
class UserTLSConfig:
    """Certificate files of a driver that connects from outside the cluster.

    Attributes:
        root_cert_path: certificate of the authority that signed the server's.
        module_cert_path: this client's certificate.
        module_key_path: the key of it.
        server_name: the name that the server's certificate must carry.
    """

    root_cert_path: str
    module_cert_path: str
    module_key_path: str
    server_name: str | None = None


@dataclass
class DeploymentConfig:
    """Sizes of an automatically deployed cluster. Accepted for compatibility."""

    cpu: int = 0
    mem: int = 0
    datamem: int = 0
    spill_path: str = ""
    spill_limit: int = 0


@dataclass(repr=False, eq=False)
class Config:
    """How ``yr.init`` finds the cluster and what holds for this job.

    Every field may be left alone; ``yr.init()`` without a ``Config`` joins the cluster of
    this machine or starts a temporary one. ``yr.init`` fills unset fields from the
    environment, in the object that it was given.

        yr.init(yr.Config(num_cpus=4))                      # size of the temporary cluster
        yr.init(yr.Config(server_address="127.0.0.1:22773"))

    Attributes:
        function_id: URN of the function that hosts Python code; environment ``YRFUNCID``.
        cpp_function_id: the same for C++; ``YR_CPP_FUNCID``.
        cpp_auto_function_name: accepted, unused.
        function_name: for workers.
        server_address: ``host:port``, an IP address, or either with ``http://``, ``https://``
            or ``grpc://`` in front; ``YR_SERVER_ADDRESS``.
        ds_address: the data system's address; ``YR_DS_ADDRESS``. Here both are one daemon.
        is_driver: False in workers; ``YR_APP_MODE=true`` makes it False.
        log_level: name or number; ``YR_LOG_LEVEL``, else ``WARNING``.
        invoke_timeout: seconds, for reading an HTTP answer.
        local_mode: run in this process without a cluster. Not supported yet.
        code_dir: where a worker finds code.
        connection_nums: at least 1.
        recycle_time: seconds, above 0 and up to 300: how long an idle stateless worker stays.
        in_cluster: None derives it: False when only ``server_address`` is set; ``YR_IN_CLUSTER``.
        job_id: made when empty.
        tls_config: certificate files.
        auto: accepted, no effect.
        deployment_config: accepted, no effect.
        rt_server_address: for workers; ``POSIX_LISTEN_ADDR``.
        log_dir: directory of driver logs; ``YR_LOG_PATH``, else ``./``.
        env_file: a file of ``KEY=VALUE`` lines that is read into the environment first.
        log_file_size_max: MB, 0 is the default.
        log_file_num_max: 0 is the default.
        log_flush_interval: seconds.
        logger: used instead of the SDK's own logger.
        runtime_id: ``driver`` in a driver.
        max_task_instance_num: most stateless workers of this job; -1 is no cap.
        load_paths: where workers look for modules, first first.
        rpc_timeout: seconds.
        enable_mtls: ``YR_ENABLE_MTLS``, else False.
        enable_tls: ``YR_ENABLE_TLS``; else True outside the cluster with a token.
        private_key_path: ``YR_PRIVATE_KEY_FILE``.
        certificate_file_path: ``YR_CERT_FILE``.
        verify_file_path: ``YR_VERIFY_FILE``.
        private_key_paaswd: (the spelling is the interface's) cleared by ``yr.init``.
        http_ioc_threads_num: accepted, no effect.
        server_name: ``YR_SERVER_NAME``, else the server's host when TLS is on.
        ns: namespace of named instances that give none.
        tenant_id: ``YR_TENANT_ID``, else ``sub`` of the token when that is a JWT.
        enable_metrics: accepted, no effect yet.
        bypass_datasystem: accepted; small values always travel inline.
        custom_envs: ``LD_LIBRARY_PATH`` of workers; other keys are ignored.
        master_addr_list: addresses of masters.
        working_dir: directory with code that exists on all nodes; ``YR_WORKING_DIR``.
        enable_ds_encrypt: data system authentication, needs the three key paths below.
        ds_public_key_path, runtime_public_key_path, runtime_private_key_path: key files.
        num_cpus: cores of the temporary cluster; None is all of the machine.
        runtime_env: kept with the job.
        log_to_driver: print the workers' output here. Not available yet, a warning says so.
        dedup_logs: with ``log_to_driver``, collapse repeats.
        auth_token: the cluster's token; ``YR_JWT_TOKEN``.
    """

    function_id: str = ""
    cpp_function_id: str = ""
    cpp_auto_function_name: str = ""
    function_name: str = ""
    server_address: str = ""
    ds_address: str = ""
    is_driver: bool = True
    log_level: str | int = ""
    invoke_timeout: int = 900
    local_mode: bool = False
    code_dir: str = ""
    connection_nums: int = 100
    recycle_time: int = 2
    in_cluster: bool | None = None
    job_id: str = ""
    tls_config: UserTLSConfig | None = None
    auto: bool = False
    deployment_config: DeploymentConfig | None = None
    rt_server_address: str = ""
    log_dir: str = "./"
    env_file: str = ""
    log_file_size_max: int = 0
    log_file_num_max: int = 0
    log_flush_interval: int = 5
    logger: logging.Logger | None = None
    runtime_id: str = "driver"
    max_task_instance_num: int = -1
    load_paths: list[str] = field(default_factory=list)
    rpc_timeout: int = 1800
    enable_mtls: bool | None = None
    enable_tls: bool | None = None
    private_key_path: str = ""
    certificate_file_path: str = ""
    verify_file_path: str = ""
    private_key_paaswd: str = ""
    http_ioc_threads_num: int = 400
    server_name: str = ""
    ns: str = ""
    tenant_id: str = ""
    enable_metrics: bool = True
    bypass_datasystem: bool | None = None
    custom_envs: dict[str, str] = field(default_factory=dict)
    master_addr_list: list[str] = field(default_factory=list)
    working_dir: str = ""
    enable_ds_encrypt: bool = False
    ds_public_key_path: str = ""
    runtime_public_key_path: str = ""
    runtime_private_key_path: str = ""
    num_cpus: int | None = None
    runtime_env: dict[str, Any] | None = None
    log_to_driver: bool = False
    dedup_logs: bool = True
    auth_token: str = ""


class ConsistencyType(Enum):
    """How soon other nodes must see an object."""

    PRAM = 0
    CAUSAL = 1


class CacheType(Enum):
    """Where an object is kept."""

    MEMORY = 0
    DISK = 1


class CreateParam:
    """How ``yr.put`` keeps an object. Takes no arguments; assign the attributes.

    Both are hints: an object is visible to all of its node at once and lives in memory.

    Attributes:
        consistency_type: a ``ConsistencyType``, default ``PRAM``.
        cache_type: a ``CacheType``, default ``MEMORY``.
    """

    def __init__(self) -> None:
        self.consistency_type = ConsistencyType.PRAM
        self.cache_type = CacheType.MEMORY


@dataclass
class Device:
    """A heterogeneous model. Accepted for compatibility."""

    name: str = ""
    batch_size: int = 1


@dataclass
class DebugConfig:
    """Whether a worker starts under the remote debugger."""

    enable: bool = False


@dataclass
class PortForwarding:
    """A port of an instance that others may reach.

    Attributes:
        port: 1 to 65535.
        protocol: ``"TCP"`` or ``"UDP"``.
    """

    port: int = 0
    protocol: str = "TCP"


@dataclass
class ResourceGroupOptions:
    """Which resource group an instance belongs to; the empty name is none."""

    resource_group_name: str = ""
    bundle_index: int = -1


@dataclass
class FunctionGroupOptions:
    """Sizes of a function group's members, in the units of ``InvokeOptions``."""

    cpu: int | None = None
    memory: int | None = None
    resources: dict[str, float] = field(default_factory=dict)
    scheduling_affinity_type: Any = None
    scheduling_affinity_each_bundle_size: int | None = None
    timeout: int | None = None
    concurrency: int | None = None
    recover_retry_times: int = 0


@dataclass
class InvokeOptions:
    """How a function or an instance runs. All values are read when the call is made.

        opt = yr.InvokeOptions(cpu=1000, memory=1024)
        opt.custom_resources = {"ssd": 1}
        counter = Counter.options(opt).invoke()

    CPU is in millicores (1000 is one core), memory in MB; both decide placement and bound
    nothing. Options that this version cannot honour are refused when the call is made
    (``YRValueError``, code 1001): affinities, resource and instance groups, port
    forwarding, the debugger, ``runtime_env`` other than ``env_vars``.

    Attributes:
        cpu: 300 to 16000.
        cpu_limit: 0, or at least ``cpu``; for container executors.
        memory: at least 128.
        mem_limit: 0, or at least ``memory``; for container executors.
        concurrency: 1 to 1000 requests at once in one worker; None is 1, or 1000 for a class
            with coroutine methods.
        custom_resources: name to amount, ``{"ssd": 1}``.
        custom_extensions: string to string; ``lifecycle=detached``, ``Concurrency`` and
            ``GRACEFUL_SHUTDOWN_TIME`` (seconds) have a meaning here, others are kept as tags.
        pod_labels: at most 5; Kubernetes only.
        labels: ``"key"`` or ``"key:value"``, put on the new instance.
        affinity: legacy form of ``schedule_affinities``.
        device: accepted, no effect.
        max_invoke_latency: milliseconds, -1 for none; a hint.
        min_instances: stateless workers to keep.
        max_instances: most stateless workers of these options; 0 or -1 is no cap.
        recover_retry_times: how often a crashed instance is started again.
        need_order: None: calls of one caller run in order unless concurrency is above 1 or the
            class has coroutine methods.
        name: names an instance; ``namespace-name`` has at most 64 bytes.
        namespace: of the name; empty is ``Config.ns``.
        schedule_affinities: list of affinities.
        is_data_affinity: a hint.
        resource_group_options: membership in a resource group.
        function_group_options: sizes of a function group.
        env_vars: the worker's environment; wins over ``runtime_env["env_vars"]``.
        retry_times: extra attempts of a stateless call that failed.
        trace_id: goes along with the call.
        alias_params: aliases of function services.
        runtime_env: ``{"env_vars": {...}}``.
        debug: start the worker under the debugger.
        preempted_allowed: a hint.
        instance_priority: 0 or more.
        schedule_timeout_ms: how long a new instance may wait for resources; -1 is for ever.
        group_name: membership in a ``yr.Group``.
        idle_timeout: seconds after which an idle instance may be ended. The default does not
            end an instance; a value that was set does.
        is_delete_remote_tensor: internal.
        bypass_datasystem: accepted; small values always travel inline.
        skip_serialize: the class or function is importable in the worker: send its name only.
        port_forwardings: ports of the instance.
        get_if_exists: with ``name``: return the existing instance if there is one.
    """

    cpu: int = 500
    cpu_limit: int = 0
    memory: int = 500
    mem_limit: int = 0
    concurrency: int | None = None
    custom_resources: dict[str, float] = field(default_factory=dict)
    custom_extensions: dict[str, str] = field(default_factory=dict)
    pod_labels: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    affinity: dict[str, str] = field(default_factory=dict)
    device: Device = field(default_factory=Device)
    max_invoke_latency: int = 5000
    min_instances: int = 0
    max_instances: int = 0
    recover_retry_times: int = 0
    need_order: bool | None = None
    name: str = ""
    namespace: str = ""
    schedule_affinities: Any = field(default_factory=dict)
    is_data_affinity: bool = False
    resource_group_options: ResourceGroupOptions = field(default_factory=ResourceGroupOptions)
    function_group_options: FunctionGroupOptions = field(default_factory=FunctionGroupOptions)
    env_vars: dict[str, str] = field(default_factory=dict)
    retry_times: int = 0
    trace_id: str = ""
    alias_params: dict[str, str] = field(default_factory=dict)
    runtime_env: dict[str, Any] = field(default_factory=dict)
    debug: DebugConfig = field(default_factory=DebugConfig)
    preempted_allowed: bool = False
    instance_priority: int = 0
    schedule_timeout_ms: int = 30000
    group_name: str = ""
    idle_timeout: int = 300
    is_delete_remote_tensor: bool = False
    bypass_datasystem: bool = False
    skip_serialize: bool = False
    port_forwardings: list[PortForwarding] = field(default_factory=list)
    get_if_exists: bool = False

    # Not constructor arguments, because they have no annotation: assign them afterwards.
    preferred_priority = True
    required_priority = False
    preferred_anti_other_labels = False

    _edition = 0  # counts assignments

    def __setattr__(self, name: str, value: Any) -> None:
        # A call must see every change without comparing 38 fields: see yr._options.reading.
        fields = self.__dict__
        fields[name] = value
        fields["_edition"] = fields.get("_edition", 0) + 1

    def check_options_valid(self) -> None:
        """Check types; every ``options()`` calls this.

        Raises:
            TypeError: a field has another type than the interface says. None passes.
        """
        for names, expected in _CHECKED_TYPES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not isinstance(value, expected):
                    raise TypeError(f"invalid type for '{name}', actual: {type(value)}, expect: {expected}")

    def check_options_range(self) -> None:
        """Check ranges; ``options()`` of a function calls this.

        Raises:
            ValueError: a number lies outside its range.
        """
        for name, lowest in _CHECKED_RANGES:
            value = getattr(self, name)
            if not lowest <= value <= MAX_INT32:
                raise ValueError(f"invalid {name}, actual: {value}, expect: [{lowest}, {MAX_INT32:#x}]")
        for name, request in (("cpu_limit", "cpu"), ("mem_limit", "memory")):
            limit = getattr(self, name)
            if limit != 0 and limit < getattr(self, request):
                raise ValueError(
                    f"invalid {name}, actual: {limit}, expect: 0 or at least {request} ({getattr(self, request)})"
                )


_CHECKED_TYPES: tuple[tuple[tuple[str, ...], type], ...] = (
    (("env_vars", "custom_resources", "custom_extensions"), dict),
    (("name", "namespace", "trace_id"), str),
    (("preferred_anti_other_labels", "preferred_priority"), bool),
)

_CHECKED_RANGES = (
    ("retry_times", 0),
    ("recover_retry_times", 0),
    ("max_instances", -1),
    ("max_invoke_latency", -1),
    ("min_instances", 0),
)


def function_group_enabled(options: FunctionGroupOptions, group_size: int) -> bool:
    """Whether these options describe a function group of ``group_size`` members."""
    return group_size > 0 and options.scheduling_affinity_each_bundle_size is not None
