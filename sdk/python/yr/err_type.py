"""The public numbers of errors, as openYuanrong's Python interface names them.

Programs compare these numbers, so they never change. ``pkg/yr/errors.go`` is the
other side of the same list. Codes without a name here reach a program as plain
integers in ``YRError.code``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class ErrorCode(IntEnum):
    """What went wrong. Members are integers, so ``e.code == 4005`` works."""

    ERR_OK = 0

    ERR_PARAM_INVALID = 1001
    ERR_RESOURCE_NOT_ENOUGH = 1002
    ERR_INSTANCE_NOT_FOUND = 1003
    ERR_INSTANCE_DUPLICATED = 1004
    ERR_INVOKE_RATE_LIMITED = 1005
    ERR_RESOURCE_CONFIG_ERROR = 1006
    ERR_INSTANCE_EXITED = 1007
    ERR_EXTENSION_META_ERROR = 1008

    ERR_USER_CODE_LOAD = 2001
    ERR_USER_FUNCTION_EXCEPTION = 2002

    ERR_REQUEST_BETWEEN_RUNTIME_BUS = 3001
    ERR_INNER_COMMUNICATION = 3002
    ERR_INNER_SYSTEM_ERROR = 3003
    ERR_DISCONNECT_FRONTEND_BUS = 3004
    ERR_ETCD_OPERATION_ERROR = 3005
    ERR_BUS_DISCONNECTION = 3006
    ERR_REDIS_OPERATION_ERROR = 3007

    ERR_INCORRECT_INIT_USAGE = 4001
    ERR_INIT_CONNECTION_FAILED = 4002
    ERR_DESERIALIZATION_FAILED = 4003
    ERR_INSTANCE_ID_EMPTY = 4004
    ERR_GET_OPERATION_FAILED = 4005
    ERR_INCORRECT_FUNCTION_USAGE = 4006
    ERR_INCORRECT_CREATE_USAGE = 4007
    ERR_INCORRECT_INVOKE_USAGE = 4008
    ERR_INCORRECT_KILL_USAGE = 4009

    ERR_ROCKSDB_FAILED = 4201
    ERR_SHARED_MEMORY_LIMITED = 4202
    ERR_OPERATE_DISK_FAILED = 4203
    ERR_INSUFFICIENT_DISK_SPACE = 4204
    ERR_CONNECTION_FAILED = 4205
    ERR_KEY_ALREADY_EXIST = 4206
    ERR_DATASYSTEM_FAILED = 4299

    ERR_DEPENDENCY_FAILED = 4306

    ERR_FINALIZED = 9000
    ERR_CREATE_RETURN_BUFFER = 9001
    ERR_GENERATOR_FINISHED = 9005


class ModuleCode(IntEnum):
    """Which part of the system reports the error."""

    CORE = 10
    RUNTIME = 20
    RUNTIME_CREATE = 21
    RUNTIME_INVOKE = 22
    RUNTIME_KILL = 23
    DATASYSTEM = 30


def number(code: int | Enum) -> int:
    """The plain integer of a code that may or may not have a name."""
    return int(code.value if isinstance(code, Enum) else code)


def named(code: int) -> ErrorCode | int:
    """The ``ErrorCode`` of this number, or the number itself when it has no name."""
    try:
        return ErrorCode(code)
    except ValueError:
        return code


@dataclass
class ErrorInfo:
    """An error as the runtime reports it, before it becomes an exception.

    Attributes:
        error_code: what went wrong.
        module_code: who says so.
        msg: the text, without codes.
        stack_trace_infos: frames of remote code, when they are known.
    """

    error_code: ErrorCode | int = ErrorCode.ERR_OK
    module_code: ModuleCode | int = ModuleCode.RUNTIME
    msg: str = ""
    stack_trace_infos: list[object] | None = None
