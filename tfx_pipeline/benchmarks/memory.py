"""How much memory this process took at most."""

from pathlib import Path


def own_peak_mb() -> float:
    """Peak resident memory of this process, in MB."""
    # What `getrusage` gives on Linux starts at the parent's peak.
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [one for one in status.read_text().splitlines() if one.startswith("VmHWM")]
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS: in bytes.
