"""The parent of several processes, with a small server of sockets in place of the real one."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.server.lifecycle.worker_processes import can_share_ports, threads_flags

pytestmark = pytest.mark.skipif(not can_share_ports(), reason="the system has no SO_REUSEPORT")

WAIT = 30

CHILD = """
import os, signal, socket, sys, time
from pathlib import Path
from serving.server.lifecycle.worker_processes import WorkerProcess, share_port

flags = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
folder = Path(flags["folder"])
(folder / f"{os.getpid()}.started").touch()


def end(number, frame):
    (folder / f"{os.getpid()}.terminated").touch()
    os._exit(0)


signal.signal(signal.SIGTERM, end)
if (folder / "broken").exists():
    sys.exit(3)
try:
    (folder / "first").touch(exist_ok=False)
except FileExistsError:
    while (folder / "slow").exists():
        time.sleep(0.01)
(folder / f"{os.getpid()}.loaded").touch()
member = WorkerProcess(flags["member"])
member.wait_for_all()
member.watch_parent(lambda: os._exit(9))
listener = socket.socket()
share_port(listener)
listener.bind(("127.0.0.1", int(flags["rest_api_port"])))
listener.listen()
print(f"serving m/1 at http://127.0.0.1:{flags['rest_api_port']}", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(str(os.getpid()).encode())
"""

PARENT = """
import sys
from serving.server.lifecycle.worker_processes import Supervisor
from serving.server.errors import ServerError

command = [sys.executable, sys.argv[1]]
arguments = [f"--folder={sys.argv[2]}"]
try:
    sys.exit(
        Supervisor(arguments, 2, "127.0.0.1", (None, int(sys.argv[3])), command, 0.1).run()
    )
except ServerError as error:
    sys.exit(f"error: {error}")
"""


class Parent:
    """The parent as a process; its output is read line by line."""

    def __init__(self, folder: Path, port: int = 0):
        child = folder / "child.py"
        child.write_text(CHILD)
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.errors = (folder / "errors").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(child), str(folder), str(port)],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environ,
        )

    def ready(self):
        """(pids, port) once it says that all are ready."""
        pids = re.fullmatch(r"2 processes: (\d+) (\d+)", self.process.stdout.readline().strip())
        line = self.process.stdout.readline().strip()
        return [int(pid) for pid in pids.groups()], int(line.rpartition(":")[2])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def ask(port):
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as connection:
        data = connection.recv(100)
    if not data:
        raise ConnectionResetError
    return int(data)


def answers_at_all(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(port, count):
    """The process that responded; a connection to a process that just died is reset."""
    found = set()
    for _ in range(count):
        with contextlib.suppress(ConnectionError):
            found.add(ask(port))
    return found


def until(condition):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True
    )


def test_all_serve_one_port_and_end_with_the_parent(tmp_path):
    with Parent(tmp_path) as parent:
        pids, port = parent.ready()
        assert {ask(port) for _ in range(200)} == set(pids)
        parent.process.send_signal(signal.SIGTERM)
        assert parent.process.wait(WAIT) == 0
        assert not any(map(is_running, pids))
        # Signaled to end, so that running requests complete; not left to notice the parent's end.
        assert {path.stem for path in tmp_path.glob("*.terminated")} == set(map(str, pids))


def test_no_process_listens_before_all_have_loaded(tmp_path):
    (tmp_path / "slow").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Parent(tmp_path, port) as parent:
        until(lambda: list(tmp_path.glob("*.loaded")))
        # Long enough for one that need not wait, and no test of speed: waiting longer changes
        # nothing.
        for _ in range(50):
            time.sleep(0.02)
            assert not answers_at_all(port)
        (tmp_path / "slow").unlink()
        pids, same = parent.ready()
        assert same == port
        assert ask(port) in pids


def test_a_dead_process_is_replaced_and_the_others_continue(tmp_path):
    with Parent(tmp_path) as parent:
        pids, port = parent.ready()
        os.kill(pids[0], signal.SIGKILL)
        until(lambda: answers(port, 50) - set(pids))
        assert {ask(port) for _ in range(200)} >= {pids[1]}
        parent.errors.seek(0)
        words = f"process 1 of 2 (pid {pids[0]}) ended with -9; starting another in 0.1 s"
        assert words in parent.errors.read()


def test_it_does_not_start_when_a_process_cannot(tmp_path):
    (tmp_path / "broken").touch()
    with Parent(tmp_path) as parent:
        assert parent.process.wait(WAIT) == 1
        parent.errors.seek(0)
        assert "ended with 3 before all were ready" in parent.errors.read()


def test_a_port_in_use_is_an_error(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with Parent(tmp_path, other.getsockname()[1]) as parent:
            assert parent.process.wait(WAIT) == 1
            parent.errors.seek(0)
            assert "cannot listen" in parent.errors.read()
    assert not list(tmp_path.glob("*.started"))


def test_two_parents_do_not_share_a_port(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    with Parent(first) as one:
        _, port = one.ready()
        with Parent(second, port) as two:
            assert two.process.wait(WAIT) == 1


def test_processes_end_when_the_parent_is_killed(tmp_path):
    with Parent(tmp_path) as parent:
        pids, _ = parent.ready()
        parent.process.kill()
        until(lambda: not any(map(is_running, pids)))


def test_a_process_that_ends_by_itself_ends_in_peace():
    """The thread that watches the parent is still reading then."""
    program = (
        "import time\n"
        "from serving.server.lifecycle.worker_processes import WorkerProcess\n"
        "WorkerProcess('').wait_for_all()\n"
        "WorkerProcess('').watch_parent(print)\n"
        "time.sleep(0.3)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        process.stdin.write(b"go\n")
        process.stdin.flush()
        # Not `communicate`, which would close the pipe and so be a parent that is gone.
        assert process.wait(WAIT) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize(("count", "threads"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_the_cores_are_shared_out(monkeypatch, count, threads):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert threads_flags(count, [0, 0]) == [
        f"--tensorflow_session_parallelism={threads}",
        f"--num_tflite_pools={threads}",
    ]
    assert threads_flags(count, [0, 2]) == []
