"""Descriptors are borrowed, never kept."""

from __future__ import annotations

import os
import socket

import pytest

from sip_gateway.packet_filter import FilterError, borrowed


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_borrowed_socket_is_given_back_and_the_owners_stays_open() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as owner:
        before = open_descriptors()
        with borrowed(owner.fileno()) as duplicate:
            assert duplicate.family == socket.AF_INET
        assert open_descriptors() == before
        assert owner.fileno() >= 0


def test_what_is_no_socket_leaves_nothing_open() -> None:
    reading, writing = os.pipe()
    before = open_descriptors()
    for descriptor in (reading, 99_999):
        with pytest.raises(FilterError), borrowed(descriptor):
            pass
    assert open_descriptors() == before
    os.close(reading)
    os.close(writing)
