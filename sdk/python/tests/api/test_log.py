"""The SDK's own logger."""

from __future__ import annotations

import logging

import pytest
from yr import log


@pytest.fixture(autouse=True)
def as_before():
    own = logging.getLogger("yr")
    before = own.level, own.propagate, list(own.handlers)
    yield
    own.level, own.propagate, own.handlers = before
    log.init_logger(logging.WARNING)
    own.handlers = before[2]


def test_records_go_to_standard_output_in_the_interfaces_form(capsys):
    log.init_logger("debug")
    log.get_logger().debug("hello %s", "there")
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    parts = out.split()
    assert parts[0].startswith("[") and parts[2:4] == [
        "DEBUG",
        "test_records_go_to_standard_output_in_the_interfaces_form",
    ]
    assert parts[4].startswith("test_log.py:") and out.endswith("] hello there\n")


def test_levels_are_names_in_any_case_or_numbers(capsys):
    for level in ("Error", 40, "40"):
        log.init_logger(level)
        log.get_logger().warning("not shown")
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="LOUD"):
        log.init_logger("LOUD")


def test_a_given_logger_is_used():
    mine = logging.getLogger("mine")
    log.init_logger("INFO", mine)
    assert log.get_logger() is mine
    log.init_logger("INFO")
    assert log.get_logger() is logging.getLogger("yr")
