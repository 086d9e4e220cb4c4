"""Ports: the same again, never a taken one."""

from __future__ import annotations

import socket
from pathlib import Path

from slipway.local.ports import HOST, TWIN, choose, is_free

NAMES = ("a", "b", "c")


def test_the_same_folder_gets_the_same_ports(tmp_path: Path) -> None:
    first = choose(tmp_path, NAMES, {})
    assert choose(tmp_path, NAMES, {}) == first
    assert choose(tmp_path, NAMES, first) == first
    assert len(set(first.values())) == 3
    assert all(port >= 20_000 and port + TWIN < 32_768 for port in first.values())


def test_folders_differ(tmp_path: Path) -> None:
    starts = {choose(tmp_path / str(number), ("a",), {})["a"] for number in range(20)}
    assert len(starts) > 15


def test_a_taken_port_is_passed_over_and_only_that(tmp_path: Path) -> None:
    wanted = choose(tmp_path, NAMES, {})
    with socket.socket() as holder:
        holder.bind((HOST, wanted["b"]))
        holder.listen()
        assert not is_free(wanted["b"])
        found = choose(tmp_path, NAMES, wanted)
    assert (found["a"], found["c"]) == (wanted["a"], wanted["c"])
    assert found["b"] not in wanted.values()
    assert choose(tmp_path, NAMES, wanted) == wanted


def test_one_on_every_interface_counts_too(tmp_path: Path) -> None:
    wanted = choose(tmp_path, ("a",), {})["a"]
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", wanted))
        holder.listen()
        assert choose(tmp_path, ("a",), {"a": wanted})["a"] != wanted


def test_a_taken_twin_counts_too(tmp_path: Path) -> None:
    wanted = choose(tmp_path, ("a",), {})["a"]
    with socket.socket() as holder:
        holder.bind((HOST, wanted + TWIN))
        holder.listen()
        assert choose(tmp_path, ("a",), {})["a"] != wanted


def test_ports_of_other_servers_are_avoided(tmp_path: Path) -> None:
    first = choose(tmp_path, NAMES, {})
    assert not set(choose(tmp_path, NAMES, {}, avoid=first.values()).values()) & set(first.values())
