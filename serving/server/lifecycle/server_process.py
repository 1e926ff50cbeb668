"""The embedded server as a child process on free ports, for the duration of a `with` block.

with ServerProcess("bundles") as server:
requests.get(f"{server.rest_url}/v1/models/digits_cnn")
"""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from core.processes import exit_reason, module_command, start, stop
from serving.server.errors import ServerError

_READY = re.compile(r"^serving .* at (https?://\S+) and grpc://(\S+)$", re.MULTILINE)
_LOG_CHARACTERS = 2000
_STOP_S = 15.0


class ServerProcess:
    """A running server.

    Attributes:
      rest_url: e.g. `http://127.0.0.1:43210`.
      grpc_target: e.g. `127.0.0.1:43211`, as `grpc.insecure_channel` takes it.
    """

    rest_url: str
    grpc_target: str

    def __init__(
        self,
        bundles_dir: Path | str | None = None,
        *,
        flags: Sequence[str] = (),
        timeout_s: float = 120.0,
    ) -> None:
        """Prepares the process, which starts with the `with` block.

        Args:
          bundles_dir: folder whose models are all served; None when `flags` name the models.
          flags: further flags of `python -m serving.server`.
          timeout_s: until it is ready; most of the time is the import of TensorFlow.
        """
        what = [] if bundles_dir is None else [f"--bundles_dir={bundles_dir}"]
        own = ["--port=auto", "--rest_api_port=auto", "--lame_duck_seconds=0"]
        self._flags = [*own, *what, *flags]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log = None

    @property
    def pid(self) -> int:
        """The id of the running process."""
        if self._process is None:
            raise ServerError("the server is not running; use it in a `with` block")
        return self._process.pid

    def start(self) -> "ServerProcess":
        """Starts the server and waits until it is ready.

        On Linux the server ends with the thread that called this: call it from one that lives at
        least as long as the server is needed, not from a pool's.

        Raises:
          ServerError: it ended or was not ready in time; the message holds the end of its log.
        """
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = start(
            module_command("serving.server", *self._flags, end_with_parent=signal.SIGTERM),
            log=self._log,
        )
        deadline = time.monotonic() + self._timeout_s
        while True:
            ready = _READY.search(self.log())
            if ready:
                self.rest_url, self.grpc_target = ready.groups()
                return self
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                what = "was not ready in time" if code is None else exit_reason(code)
                log = self.log()[-_LOG_CHARACTERS:]
                self.stop()
                raise ServerError(f"the server {what}; its log:\n{log}")
            time.sleep(0.05)

    def log(self) -> str:
        """The output of the server so far."""
        if self._log is None:
            return ""
        # Not through the file position, at which the server may be writing.
        file = self._log.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode("utf-8", "replace")

    def stop(self) -> int:
        """Stops the server after its running requests; returns the exit status."""
        if self._process is None:
            return 0
        stop(self._process, grace_s=_STOP_S)
        code = self._process.returncode
        if self._log is not None:
            self._log.close()
            self._log = None
        self._process = None
        return code

    def __enter__(self) -> "ServerProcess":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()
