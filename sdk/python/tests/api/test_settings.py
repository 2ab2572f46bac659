"""Config and the environment, before anything is connected."""

from __future__ import annotations

import base64
import json
import os
import sys

import pytest
import yr
from yr import _settings
from yr.config import Config


def filled(**fields) -> Config:
    conf = Config(**fields)
    _settings.fill(conf)
    return conf


def test_positions_of_config():
    conf = Config("sn:cn:yrk:default:function:f:$latest", "", "", "", "1.2.3.4:5", "1.2.3.4:6", False, "DEBUG")
    assert (conf.server_address, conf.ds_address, conf.is_driver, conf.log_level) == (
        "1.2.3.4:5", "1.2.3.4:6", False, "DEBUG",
    )  # fmt: skip
    assert (Config().recycle_time, Config().connection_nums, Config().max_task_instance_num) == (2, 100, -1)
    with pytest.raises(TypeError):
        Config(enable_trace=True)


def test_defaults_are_filled_in_the_object():
    conf = filled()
    major, minor = sys.version_info[:2]
    assert conf.function_id == f"sn:cn:yrk:default:function:0-defaultservice-py{major}{minor}:$latest"
    assert (conf.log_level, conf.log_dir, conf.tenant_id) == ("WARNING", "./", "")


@pytest.mark.parametrize(
    "field, variable",
    [
        ("server_address", "YR_SERVER_ADDRESS"), ("ds_address", "YR_DS_ADDRESS"), ("log_level", "YR_LOG_LEVEL"),
        ("tenant_id", "YR_TENANT_ID"), ("auth_token", "YR_JWT_TOKEN"), ("working_dir", "YR_WORKING_DIR"),
        ("log_dir", "YR_LOG_PATH"), ("server_name", "YR_SERVER_NAME"), ("verify_file_path", "YR_VERIFY_FILE"),
    ],
)  # fmt: skip
def test_the_environment_fills_what_is_unset(monkeypatch, field, variable):
    monkeypatch.setenv(variable, "from the environment")
    assert getattr(filled(), field) == "from the environment"
    assert getattr(filled(**{field: "given"}), field) == "given"


def test_app_mode_makes_a_worker(monkeypatch):
    monkeypatch.setenv("YR_APP_MODE", "true")
    assert filled().is_driver is False


def test_an_env_file_is_read_first(tmp_path, monkeypatch):
    monkeypatch.setenv("YR_TENANT_ID", "before")
    path = tmp_path / "env"
    path.write_text("# a comment\n\nYR_TENANT_ID=from the file\n")
    assert filled(env_file=str(path)).tenant_id == "from the file"
    monkeypatch.delenv("YR_TENANT_ID")


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_bad_env_file_is_named(tmp_path, content):
    path = tmp_path / "env"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=str(path)):
        filled(env_file=str(path))


def test_the_tenant_is_the_subject_of_the_token():
    payload = base64.urlsafe_b64encode(json.dumps({"sub": "someone"}).encode()).rstrip(b"=").decode()
    assert filled(auth_token=f"header.{payload}.signature").tenant_id == "someone"
    assert filled(auth_token="no.jwt.at all").tenant_id == ""
    assert filled(auth_token="plain").tenant_id == ""


@pytest.mark.parametrize(
    "fields, error",
    [
        ({"function_id": "a:b"}, ValueError),
        ({"cpp_function_id": "a:b"}, ValueError),
        ({"connection_nums": "1"}, TypeError),
        ({"connection_nums": 0}, ValueError),
        ({"recycle_time": 0}, ValueError),
        ({"recycle_time": 301}, ValueError),
        ({"recycle_time": "2"}, TypeError),
        ({"num_cpus": 0}, ValueError),
        ({"num_cpus": 1.5}, TypeError),
        ({"custom_envs": []}, TypeError),
        ({"enable_ds_encrypt": True}, ValueError),
        ({"local_mode": True}, yr.YRRuntimeError),
    ],
)
def test_bad_settings(fields, error):
    with pytest.raises(error, match="function id|" + next(iter(fields))):
        filled(**fields)


@pytest.mark.parametrize(
    "text", ["a:b", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:0", "1.2.3.4:65536", "999.1.1.1:80", "-x-:80"]
)
def test_malformed_addresses_are_named(text):
    with pytest.raises(ValueError, match=text):
        _settings.check_address(text)


def test_an_empty_address_names_the_variables():
    with pytest.raises(ValueError, match=r"YR_SERVER_ADDRESS and YR_DS_ADDRESS"):
        _settings.check_address("")


@pytest.mark.parametrize("text", ["127.0.0.1:80", "localhost:80", "node-1.example.com:65535"])
def test_good_addresses(text):
    assert str(_settings.check_address(text)) == text


@pytest.mark.parametrize(
    "fields, server, in_cluster, ds",
    [
        ({"server_address": "1.2.3.4"}, "1.2.3.4:31222", False, "1.2.3.4:31222"),
        ({"server_address": "1.2.3.4", "ds_address": "1.2.3.4"}, "1.2.3.4:21003", True, "1.2.3.4"),
        ({"server_address": "http://host:8888"}, "host:8888", False, "host:8888"),
        ({"server_address": "grpc://host:8888"}, "host:8888", True, ""),
        ({"server_address": "host:1", "in_cluster": False}, "host:1", False, "host:1"),
    ],
)
def test_an_address_settles_where_the_driver_is(fields, server, in_cluster, ds):
    conf = filled(**fields)
    assert str(_settings.locate(conf)) == server
    assert (conf.in_cluster, conf.ds_address) == (in_cluster, ds)


def test_in_cluster_with_a_server_needs_a_data_system():
    with pytest.raises(ValueError, match="YR_DS_ADDRESS"):
        _settings.locate(filled(server_address="host:1", in_cluster=True))


def test_without_an_address_a_driver_discovers_and_a_worker_does_not():
    conf = filled()
    assert _settings.locate(conf) is None and conf.in_cluster is True
    with pytest.raises(ValueError, match="it is empty"):
        _settings.locate(filled(is_driver=False))


@pytest.mark.parametrize(
    "fields, tls",
    [
        ({"server_address": "https://host:1"}, True),
        ({"server_address": "host:1", "auth_token": "t"}, True),
        ({"server_address": "host:1", "auth_token": "t", "enable_tls": False}, False),
        ({"server_address": "host:1", "ds_address": "host:2", "auth_token": "t"}, False),
        ({"server_address": "host:1"}, False),
    ],
)
def test_tls_is_the_default_outside_with_a_token(fields, tls):
    conf = filled(**fields)
    _settings.locate(conf)
    assert conf.enable_tls is tls


def test_code_paths_leave_the_interpreter_out(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), os.path.dirname(os.__file__), "/no/such/place"])
    paths = _settings.code_paths(Config(load_paths=["/given"], working_dir="/work dir"))
    assert paths == ["/given", "/work dir", os.getcwd(), str(tmp_path)]


def test_only_the_library_path_of_custom_envs_is_used():
    conf = Config(custom_envs={"LD_LIBRARY_PATH": "${HOME}/lib", "PATH": "/x"})
    assert _settings.worker_environment(conf) == {"LD_LIBRARY_PATH": "${HOME}/lib"}


def test_a_cluster_without_data_system_is_refused(monkeypatch):
    monkeypatch.setenv("YR_DATASYSTEM_DEPLOYED", "false")
    with pytest.raises(yr.YRRuntimeError) as raised:
        filled()
    assert raised.value.code == 1001
    filled(bypass_datasystem=True)
