"""Peak memory of this process."""

from pathlib import Path


def own_peak_mb() -> float:
    """Peak resident memory of this process, in MB."""
    # On Linux, the value of `getrusage` starts at the peak of the parent process.
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [one for one in status.read_text().splitlines() if one.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # In bytes on macOS.
