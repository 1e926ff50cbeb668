"""Several server processes that share the ports, each of which loads the models.

    sightline serve bundles --processes 4

The parent loads no models. It reserves the ports, starts the processes, lets them listen once all
have loaded their models, restarts a process that ends, and forwards signals. The kernel distributes
connections (SO_REUSEPORT), so one client with one connection uses one process.
"""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.processes import module_command, start, stop
from serving.server.errors import ServerError

#: A process prints the first when its models are loaded, and then waits for the second.
_LOADED = "loaded"
_GO = b"go\n"
_FIRST_DELAY_S = 1.0
_MAX_DELAY_S = 60.0
#: A process that has run for longer did not fail to start.
_STEADY_S = 60.0
_STOP_S = 20.0


class WorkerProcess:
    """One process: reports that it has loaded, waits for the others, and ends with the parent."""

    def __init__(self, folder: str) -> None:
        """Takes the folder of the metrics of all processes."""
        self.folder = folder

    def wait_for_all(self) -> None:
        """Reports that the models are loaded, and blocks until all processes may listen.

        Raises:
          ServerError: the parent has ended.
        """
        print(_LOADED, flush=True)
        if sys.stdin.buffer.readline() != _GO:
            raise ServerError("the parent process is gone")

    def watch_parent(self, stop: Callable[[], object]) -> None:
        """Calls `stop` in another thread when the parent has ended."""

        def wait() -> None:
            # The parent never writes again, so this returns when it ends. A thread that reads
            # `sys.stdin` would hold its lock, and Python aborts at exit when it cannot take it.
            os.read(0, 1)
            stop()

        threading.Thread(target=wait, name="parent", daemon=True).start()


def can_share_ports() -> bool:
    """Whether the system lets processes share a port."""
    return hasattr(socket, "SO_REUSEPORT")


def share_port(listener: socket.socket) -> None:
    """Lets other processes of this user listen on the same port."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


@dataclass
class _Child:
    """One of the processes, which is replaced when it ends."""

    index: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    state: str = "loading"
    ready: str = ""


@dataclass
class Supervisor:
    """Keeps the processes running; for one thread.

    Attributes:
      arguments: of `python -m serving.server`; each process gets further ones.
      count: number of processes.
      host: to bind.
      ports: gRPC and REST; 0 takes a free port, None disables the API.
      command: starts a process.
      delay_s: before the first restart of a process; it doubles with each further one.
      rest_host: to bind for REST; empty is `host`.
      lame_duck_s: between SIGTERM and the end of a process.
    """

    arguments: Sequence[str]
    count: int
    host: str
    ports: tuple[int | None, int | None]
    command: Sequence[str] = tuple(module_command("serving.server"))
    delay_s: float = _FIRST_DELAY_S
    rest_host: str = ""
    lame_duck_s: float = 0.0
    _events: "queue.SimpleQueue[tuple[str, Any]]" = field(default_factory=queue.SimpleQueue)
    _children: list[_Child] = field(default_factory=list)
    _folder: str = ""
    _stop_signal: int = signal.SIGTERM

    def run(self) -> int:
        """Starts the processes and waits for a signal; prints one line when all are ready.

        Returns:
          The exit status: 0 after a signal.

        Raises:
          ServerError: ports in use, or a process that ends before it is ready.
        """
        if not can_share_ports():
            raise ServerError("--processes needs SO_REUSEPORT, which this system does not have")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: self._events.put(("stop", number)))
        with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as self._folder:
            addresses = zip((self.host, self.rest_host or self.host), self.ports, strict=True)
            reserved = [
                stack.enter_context(_reserve(host, port))
                for host, port in addresses
                if port is not None
            ]
            numbers = iter([holder.getsockname()[1] for holder in reserved])
            grpc_port, rest_port = (None if p is None else next(numbers) for p in self.ports)
            self.ports = (grpc_port, rest_port)
            try:
                self._children = [_Child(index) for index in range(self.count)]
                for child in self._children:
                    self._start(child)
                return self._supervise()
            finally:
                self._stop_all()

    def _start(self, child: _Child) -> None:
        child.state, child.ready, child.started = "loading", "", time.monotonic()
        child.process = start(
            [*self.command, *self.arguments, *self._child_arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A terminal's Ctrl-C must reach the parent alone, which forwards it.
            start_new_session=True,
        )
        reader = threading.Thread(target=self._read, args=(child, child.process), daemon=True)
        reader.start()

    def _child_arguments(self) -> list[str]:
        grpc_port, rest_port = self.ports
        return [
            "--processes=1",
            f"--member={self._folder}",
            f"--port={grpc_port or 0}",
            f"--rest_api_port={rest_port or 0}",
        ]

    def _read(self, child: _Child, process: "subprocess.Popen[bytes]") -> None:
        """Turns the output of a process, and its end, into events."""
        with process.stdout or contextlib.nullcontext(()) as lines:
            for line in lines:
                text = line.decode("utf-8", "replace").rstrip("\n")
                kind = "loaded" if text == _LOADED else "printed"
                self._events.put((kind, (child, process, text)))
        process.wait()
        self._events.put(("ended", (child, process, "")))

    def _supervise(self) -> int:
        all_ready = False
        while True:
            kind, value = self._events.get()
            if kind == "stop":
                self._stop_signal = value
                return 0
            if kind == "start":
                self._start(value)
                continue
            child, process, text = value
            if process is not child.process:
                continue
            if kind == "ended":
                self._restart(child, process, all_ready)
            elif kind == "loaded":
                child.state = "loaded"
                self._let_listen(all_ready)
            elif text.startswith("serving "):
                child.ready = text
                if not all_ready and all(other.ready for other in self._children):
                    self._print_ready()
                    all_ready = True
            else:
                print(text, flush=True)

    def _let_listen(self, all_ready: bool) -> None:
        """Lets processes listen: at the start once all have loaded, later at once."""
        if not all_ready and any(child.state == "loading" for child in self._children):
            return
        for child in self._children:
            if child.state == "loaded" and child.process and child.process.stdin:
                child.state = "listening"
                # The end of a process that has just died is an event too.
                with contextlib.suppress(OSError):
                    child.process.stdin.write(_GO)
                    child.process.stdin.flush()

    def _print_ready(self) -> None:
        pids = " ".join(str(child.process.pid) for child in self._children if child.process)
        print(f"{self.count} processes: {pids}", flush=True)
        print(self._children[0].ready, flush=True)

    def _restart(self, child: _Child, process: "subprocess.Popen[bytes]", all_ready: bool) -> None:
        """Starts a process again after a delay; before all were ready, its end is an error."""
        status = process.returncode
        words = f"process {child.index + 1} of {self.count} (pid {process.pid}) ended with {status}"
        if process.stdin:
            process.stdin.close()
        if not all_ready:
            raise ServerError(f"{words} before all were ready; its errors are above")
        lived = time.monotonic() - child.started
        child.failures = 1 if lived > _STEADY_S else child.failures + 1
        delay = min(_MAX_DELAY_S, self.delay_s * 2 ** min(child.failures - 1, 16))
        print(f"{words}; starting another in {delay:g} s", file=sys.stderr, flush=True)
        timer = threading.Timer(delay, self._events.put, [("start", child)])
        timer.daemon = True
        timer.start()

    def _stop_all(self) -> None:
        running = [c.process for c in self._children if c.process and c.process.poll() is None]
        stop(*running, grace_s=_STOP_S + self.lame_duck_s, by=signal.Signals(self._stop_signal))
        for child in self._children:
            if child.process and child.process.stdin:
                with contextlib.suppress(OSError):
                    child.process.stdin.close()


def threads_flags(count: int, given: Sequence[int]) -> list[str]:
    """Flags that divide the cores among the processes; none where the user set any of them.

    Args:
      count: number of processes.
      given: the values of all flags for threads, 0 where they were not given.
    """
    if any(given):
        return []
    cores = max(1, (os.cpu_count() or 1) // count)
    return [f"--tensorflow_session_parallelism={cores}", f"--num_tflite_pools={cores}"]


def _reserve(host: str, port: int) -> socket.socket:
    """A socket that reserves the port and receives no connections, as it does not listen.

    Raises:
      ServerError: another process uses the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Sharing the port would succeed beside another server of the same user; this does not.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
        holder = socket.socket(family, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        share_port(holder)
        holder.bind((host, port))
    except OSError as error:
        raise ServerError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return holder
