"""Who a process is, and proof that one is dead: gone, a zombie, or its pid given to another; never a guess."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from zmqkit.transport import hosts
from zmqkit.transport.hosts import host_id, is_dead, this_process

PATIENCE_S = 20.0

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch):
    """A system without /proc: what reads it is told so, as it would be there."""
    hosts._host_id.cache_clear()
    monkeypatch.setattr(hosts, "_proc_is_ours", lambda pid: False)
    yield
    hosts._host_id.cache_clear()


def child() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def started(pid: int) -> str:
    stat = hosts._stat(pid)
    assert stat is not None
    return stat.started


def test_this_process_lives() -> None:
    me = this_process()
    assert me == this_process()
    assert me.pid == os.getpid()
    assert me.host == host_id() != ""
    assert not is_dead(*me)


@needs_proc
def test_a_killed_child_is_dead_before_and_after_its_parent_reaps_it() -> None:
    with child() as process:
        begun = started(process.pid)
        assert begun
        assert not is_dead(host_id(), process.pid, begun)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and left a zombie
        stat = hosts._stat(process.pid)
        assert stat is not None
        assert stat.state == "Z"
        assert is_dead(host_id(), process.pid, begun)
        process.wait()
        assert is_dead(host_id(), process.pid, begun)


@needs_proc
def test_a_killed_process_is_dead_as_soon_as_its_connections_are_closed() -> None:
    program = (
        "import socket, sys, threading\n"
        "for _ in range(20): threading.Thread(target=input, daemon=True).start()\n"
        "ours = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "ours.send(b'x'); ours.recv(1)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        for _ in range(10):
            command = [sys.executable, "-c", program, str(server.getsockname()[1])]
            with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
                connection = server.accept()[0]
                with connection:
                    connection.settimeout(PATIENCE_S)
                    assert connection.recv(1) == b"x"
                    begun = started(process.pid)
                    assert not is_dead(host_id(), process.pid, begun)
                    process.kill()
                    with contextlib.suppress(ConnectionResetError):
                        assert connection.recv(1) == b""
                    assert is_dead(host_id(), process.pid, begun), "though the kernel has not done with it"


@needs_proc
def test_a_process_lives_as_long_as_one_of_its_threads_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(**states: str) -> None:
        """By number: its state, and "e" where it has run its last instruction."""
        tasks = {int(name[1:]): each for name, each in states.items()}
        monkeypatch.setattr(os, "listdir", lambda path: list(map(str, tasks)))
        flags = {each: hosts.PF_EXITING * ("e" in state) for each, state in tasks.items()}
        stat = {each: hosts._Stat(state[0], flags[each], "7") for each, state in tasks.items()}
        monkeypatch.setattr(hosts, "_stat", lambda pid, thread=0: stat[thread or 1])

    me = os.getpid()
    for dead in ({"_1": "Z", "_2": "Re"}, {"_1": "Re"}, {"_1": "Re", "_2": "De", "_3": "X"}):
        threads(**dead)
        assert is_dead(host_id(), me, "7"), dead
    for alive in ({"_1": "Z", "_2": "S"}, {"_1": "Re", "_2": "R"}, {"_1": "S", "_2": "Z"}, {"_1": "D"}):
        threads(**alive)
        assert not is_dead(host_id(), me, "7"), alive


@needs_proc
def test_a_thread_that_was_begun_while_the_others_were_looked_at_is_looked_at_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [["1"], ["1", "2"]]
    monkeypatch.setattr(os, "listdir", lambda path: found.pop(0))
    monkeypatch.setattr(hosts, "_stat", lambda pid, thread=0: hosts._Stat("S" if thread == 2 else "Z", 0, "7"))
    assert not is_dead(host_id(), os.getpid(), "7")
    assert found == []


@needs_proc
def test_a_stopped_process_lives() -> None:
    with child() as process:
        begun = started(process.pid)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert not is_dead(host_id(), process.pid, begun)
        process.kill()


@needs_proc
def test_a_pid_that_was_given_to_another_process_is_no_sign_of_life() -> None:
    me = this_process()
    assert is_dead(me.host, me.pid, str(int(me.started) - 1))


@needs_proc
def test_a_process_whose_main_thread_has_ended_lives() -> None:
    program = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=input, daemon=True).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    with process:
        while True:
            stat = hosts._stat(process.pid)
            assert stat is not None
            if stat.state == "Z":
                break
        assert not is_dead(host_id(), process.pid, stat.started)
        process.kill()
        process.wait()
        assert is_dead(host_id(), process.pid, stat.started)


@needs_proc
def test_a_name_that_looks_like_fields_misleads_nobody() -> None:
    program = "open('/proc/self/comm', 'w').write('x) Z 1 (y'); print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        stat = hosts._stat(process.pid)
        assert stat is not None
        assert stat.state in "SR"
        assert int(stat.started) >= int(this_process().started)
        process.kill()


@pytest.mark.parametrize("pid", [0, -1])
def test_a_pid_that_is_none_proves_nothing(pid: int) -> None:
    assert not is_dead(host_id(), pid, "1")


def test_of_another_host_nothing_is_proven() -> None:
    with child() as process:
        process.kill()
    assert not is_dead("elsewhere", process.pid, "1")
    assert not is_dead("", process.pid, "1")


def test_without_proc_a_process_is_dead_when_its_pid_is_gone(no_proc: None) -> None:
    assert host_id()
    assert this_process().started == ""
    with child() as process:
        assert not is_dead(host_id(), process.pid, "")
        assert not is_dead(host_id(), process.pid, "12345")
        process.kill()
    assert is_dead(host_id(), process.pid, "")


def test_another_users_process_lives() -> None:
    # Pid 1 is there as long as anything is; for an ordinary user the signal is not permitted.
    assert not is_dead(host_id(), 1, "")
