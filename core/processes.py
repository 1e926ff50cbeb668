"""Child processes: command, environment, end, the tail of their logs, and peak memory in bytes."""

import contextlib
import ctypes
import io
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

#: Lines of a log that an error message shows.
TAIL_LINES = 12

_TAIL_BYTES = 16_384
_PR_SET_PDEATHSIG = 1
_ROOT = str(Path(__file__).resolve().parents[1])
# `python -m` puts the current folder first on the path, and `-P` exists from Python 3.11 on. `sys`
# is built in, so no file of that folder is imported before the folder is off the path. The folder
# of this package is added only where it is missing: in `site-packages` it must not come first.
_RUN_MODULE = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; root = {root!r}; "
    "root in sys.path or sys.path.insert(0, root); {before}import runpy; "
    "del sys.argv[0]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
_END_WITH_PARENT = "from core.processes import end_with_parent; end_with_parent({parent}, {by}); "


class ChildError(RuntimeError):
    """A child process failed; the message holds its exit status and its last lines."""


def module_command(
    module: str,
    *arguments: str,
    options: tuple[str, ...] = (),
    end_with_parent: signal.Signals | None = None,
) -> list[str]:
    """The command of `python -m MODULE ARGUMENTS` without the current folder on the path.

    Therefore `components/` or `random.py` of the user in the current folder is never imported
    instead of ours or Python's.

    Args:
      module: the dotted name of an installed module.
      arguments: the rest of `sys.argv`.
      options: of the interpreter, as `-W`, `ignore`.
      end_with_parent: the signal that the child gets when this process ends, on Linux; the thread
        that starts the child must live as long as the child.
    """
    before = ""
    if end_with_parent is not None:
        before = _END_WITH_PARENT.format(parent=os.getpid(), by=int(end_with_parent))
    code = _RUN_MODULE.format(root=_ROOT, before=before)
    return [sys.executable, *options, "-c", code, module, *arguments]


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: this process's with `changes`.

    Empty entries of PYTHONPATH, which stand for the current folder, are left out.
    """
    found = {**os.environ, **(changes or {})}
    entries = [entry for entry in found.pop("PYTHONPATH", "").split(os.pathsep) if entry]
    if entries:
        found["PYTHONPATH"] = os.pathsep.join(entries)
    return found


def start(
    command: list[str],
    *,
    log: IO[bytes] | None = None,
    changes: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    start_new_session: bool = False,
) -> "subprocess.Popen[bytes]":
    """A started child.

    Args:
      command: e.g. of `module_command`.
      log: the file for both output streams of the child; None uses `stdout` and `stderr`.
      changes: of the environment, see `environment`.
      stdin: as for `subprocess.Popen`; by default, there is no input.
      stdout: as for `subprocess.Popen`.
      stderr: as for `subprocess.Popen`.
      pass_fds: descriptors that the child inherits.
      start_new_session: keep Ctrl-C of a terminal from the child.
    """
    return subprocess.Popen(
        command,
        env=environment(changes),
        stdin=stdin,
        stdout=stdout if log is None else log,
        stderr=stderr if log is None else subprocess.STDOUT,
        pass_fds=pass_fds,
        start_new_session=start_new_session,
    )


def output_of(command: list[str], *, text: str = "", changes: Mapping[str, str]) -> str:
    """What a child prints on standard output.

    Args:
      command: e.g. of `module_command`.
      text: the child's standard input.
      changes: of the environment, see `environment`.

    Raises:
      ChildError: the child failed.
    """
    done = subprocess.run(
        command, input=text, check=False, capture_output=True, text=True, env=environment(changes)
    )
    if done.returncode:
        lines = tail(io.BytesIO(done.stderr.encode()))
        raise ChildError("\n".join([f"it {exit_reason(done.returncode)}:", *lines]))
    return done.stdout


def stop(
    *processes: "subprocess.Popen[bytes]", grace_s: float, by: signal.Signals = signal.SIGTERM
) -> None:
    """Ends children and waits for them: first by a signal, after `grace_s` seconds by SIGKILL."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(by)
    deadline = time.monotonic() + grace_s
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def exit_reason(status: int) -> str:
    """How a child ended: `was killed by SIGKILL` or `ended with status 1`."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # A real-time signal has no name.
        return f"was killed by signal {-status}"


def tail(log: Path | IO[bytes], lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log that are not blank.

    Args:
      log: a path or an open file, which the child may write meanwhile.
      lines: at most how many.
    """
    if isinstance(log, Path):
        with log.open("rb") as file:
            return tail(file, lines)
    if isinstance(log, io.BytesIO):
        content = log.getvalue()[-_TAIL_BYTES:]
    else:
        # Not by seeking, which would move the position of a child with the same file.
        size = os.fstat(log.fileno()).st_size
        content = os.pread(log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    text = content.decode("utf-8", "replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def end_with_parent(parent: int, by: int = signal.SIGKILL) -> None:
    """Sends this process the signal `by` when its parent ends; does nothing on other than Linux.

    Args:
      parent: the process that started this one; where it ended already, this process exits.
      by: the signal.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        os._exit(1)


def available_cores() -> int:
    """The number of cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def peak_memory_bytes(*, children: bool = False) -> int:
    """The largest resident memory of this process so far, in bytes.

    Args:
      children: also of any child that has ended, where that was larger.
    """
    found = [_own_peak_bytes()]
    if children:
        found.append(_in_bytes(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
    return max(found)


def resident_memory_bytes(pid: int) -> float:
    """Memory of a process that is in RAM, in bytes; NaN where it cannot be read."""
    status = Path(f"/proc/{pid}/status")
    if status.is_file():
        return float(_status_kib(status, "VmRSS") * 1024)
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return float(found or "nan") * 1024


def _own_peak_bytes() -> int:
    # What `getrusage` returns on Linux starts at the parent's peak.
    status = Path("/proc/self/status")
    found = _status_kib(status, "VmHWM") if status.is_file() else math.nan
    if math.isnan(found):
        return _in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return int(found) * 1024


def _status_kib(status: Path, name: str) -> float:
    lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    return float(next((line.split()[1] for line in lines if line.startswith(f"{name}:")), "nan"))


def _in_bytes(maximum_resident: int) -> int:
    """`ru_maxrss` in bytes: Linux counts KiB, macOS bytes."""
    return maximum_resident if sys.platform == "darwin" else maximum_resident * 1024
