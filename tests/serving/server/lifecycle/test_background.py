"""Where loads and unloads are done: threads, their priority, and memory that goes back."""

import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest

from serving.server.models.background import Background

linux = pytest.mark.skipif(sys.platform != "linux", reason="a thread's own priority, /proc")


@pytest.fixture
def background():
    made = Background()
    yield made
    made.close()
    gc.unfreeze()


def built_in(background):
    with background.loading():
        return background.build(threading.get_ident)


def freed_in(background, *, wait):
    seen, done = [], threading.Event()

    def close():
        seen.append(threading.get_ident())
        done.set()

    background.free(close, wait=wait)
    assert done.wait(30)
    return seen[0]


def test_the_first_load_runs_in_the_calling_thread(background):
    here = threading.get_ident()
    assert built_in(background) == here
    assert freed_in(background, wait=False) == here


def test_later_loads_are_not(background):
    here = threading.get_ident()
    background.settle()
    assert built_in(background) != here
    assert freed_in(background, wait=True) != here
    assert freed_in(background, wait=False) != here
    # A request whose signature is new is no load.
    assert background.build(threading.get_ident) == here
    background.close()
    assert built_in(background) == here
    assert freed_in(background, wait=True) == here


def test_what_a_build_raises(background):
    background.settle()
    with background.loading(), pytest.raises(ZeroDivisionError):
        background.build(lambda: 1 / 0)
    assert background.build(threading.get_ident) == threading.get_ident()


@linux
def test_only_its_own_thread_gives_way(background):
    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    background.settle()
    with background.loading():
        assert background.build(niceness) == min(19, before + 10)
    assert niceness() == before


def test_what_is_there_by_then_is_not_looked_at_again(background):
    gc.unfreeze()
    background.settle()
    assert gc.get_freeze_count() > 1000


def test_what_refers_to_itself_goes_too(background):
    class Graph:
        pass

    background.settle()
    graph = Graph()
    graph.itself, gone, held = graph, weakref.ref(graph), [graph]
    del graph
    background.free(held.clear, wait=True)
    assert gone() is None


PROGRAM = """
import ctypes, sys
from pathlib import Path
from serving.server.models.background import Background

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

# Blocks that the C library keeps for itself while one above them is in use.
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
blocks = []
for _ in range(1600):
    blocks.append(c.malloc(65536))
    ctypes.memset(blocks[-1], 1, 65536)
last = c.malloc(65536)

def close():
    for block in blocks:
        c.free(block)

background = Background()
background.settle()
full = resident()
if sys.argv[1] == "free":
    background.free(close, wait=True)
else:
    close()
print(full - resident())
"""


@linux
@pytest.mark.parametrize(("way", "returned"), [("free", True), ("close", False)])
def test_memory_goes_back_to_the_system(way, returned):
    done = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Of 100 MB; the second case shows that it does not do so by itself.
    assert (float(done.stdout) > 50) == returned
