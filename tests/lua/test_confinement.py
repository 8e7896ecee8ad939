"""What the process of a sandbox keeps: each system call of its filter, its limits, its user, and what it inherits."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lupa")
if sys.platform == "win32":
    pytest.skip("the process of a Lua sandbox needs Linux or macOS", allow_module_level=True)

import dpnn_bridge
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.confinement import _CLONE, _CLONE3, _MACHINES, _PRLIMIT, _TGKILL, ALLOWED, _program

ROOT = Path(dpnn_bridge.__file__).parents[1]
linux = pytest.mark.skipif(sys.platform != "linux", reason="the filter of system calls is Linux's")

# ---------------------------------------------------------------------- the filter
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
#: what computing needs; each call more is one that escaped code has
NAMES = """
    read write readv writev close poll ppoll select pselect6 mmap mprotect munmap mremap madvise brk futex membarrier
    set_robust_list rseq set_tid_address sigaltstack rt_sigprocmask rt_sigreturn restart_syscall sched_yield
    sched_getaffinity getcpu getpid gettid getppid getuid geteuid getgid getegid clock_gettime clock_getres
    clock_nanosleep nanosleep gettimeofday time times getrusage getrandom uname sysinfo getrlimit exit exit_group
"""
#: their numbers as the kernel's headers say, where they are installed
HEADERS = ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h")
CLONE_THREAD, PID = 0x10000, 4321
machines = pytest.mark.parametrize("machine", _MACHINES)


def outcome(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """Run the filter on one system call, as the kernel does."""
    column, own = _MACHINES[machine]
    call = struct.pack("<IIQ6Q", number, own if arch is None else arch, 0, *arguments, *[0] * (6 - len(arguments)))
    program, at, loaded = _program(column, own, PID), 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            (loaded,) = struct.unpack_from("<I", call, operand)
            continue
        holds = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: loaded & operand != 0}[code]
        at += if_true if holds else if_false


@machines
def test_the_filter_allows_what_computing_needs_and_nothing_else(machine: str) -> None:
    column, _ = _MACHINES[machine]
    numbers = {calls[column] for calls in ALLOWED.values()} - {None}
    assert {*ALLOWED} == {*NAMES.split()}
    conditional = {calls[column]: result for calls, result in ((_CLONE, EPERM), (_CLONE3, ENOSYS), (_TGKILL, EPERM))}
    conditional[_PRLIMIT[column]] = ALLOW  # without new limits
    for number in [*range(1000), 0x3FFFFFFF]:
        expected = ALLOW if number in numbers else conditional.get(number, EPERM)
        assert outcome(machine, number) == expected, number


@machines
def test_the_numbers_are_those_of_the_kernel(machine: str) -> None:
    column, _ = _MACHINES[machine]
    header = Path(HEADERS[column])
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"^#define (?:__NR|__NR3264)_(\w+) (\d+)$", header.read_text(), re.M)
    numbers = {name: int(number) for name, number in found}
    conditional = {"clone": _CLONE, "clone3": _CLONE3, "tgkill": _TGKILL, "prlimit64": _PRLIMIT}
    own = {name: calls[column] for name, calls in (ALLOWED | conditional).items() if calls[column] is not None}
    assert {name: numbers.get(name) for name in own} == own


@machines
def test_calls_that_the_filter_allows_with_some_arguments(machine: str) -> None:
    column, _ = _MACHINES[machine]
    clone, tgkill, prlimit = _CLONE[column], _TGKILL[column], _PRLIMIT[column]
    assert outcome(machine, clone, CLONE_THREAD | 0x3D0F00) == ALLOW
    assert outcome(machine, clone, 0xFFFFFFFF & ~CLONE_THREAD) == EPERM  # a process, also as vfork makes it
    assert outcome(machine, tgkill, PID, 1, 6) == ALLOW
    for other in (0, 1, PID - 1, PID + 1, 0xFFFFFFFF):
        assert outcome(machine, tgkill, other, other, 6) == EPERM
    assert outcome(machine, prlimit, 0, 7, 0, 1 << 40) == ALLOW
    for limits in (1, 1 << 31, 1 << 32, 1 << 40, (1 << 64) - 1):
        assert outcome(machine, prlimit, 0, 7, limits) == EPERM


@machines
def test_calls_of_another_table_end_the_process(machine: str) -> None:
    for arch in {0x40000003, *(arch for _, arch in _MACHINES.values())} - {_MACHINES[machine][1]}:
        assert outcome(machine, 0, arch=arch) == KILL
    for number in (0x40000000, 0x40000000 | 39, 0xFFFFFFFF):
        assert outcome(machine, number) == KILL


# ---------------------------------------------------------------------- limits, user, threads
PROGRAM = """
import json, os, resource, sys, threading
from dpnn_bridge.lua import confinement
if os.geteuid() == 0:
    os.setgroups([0, 1])
if sys.argv[1] == "partial":
    confinement._filter_system_calls = lambda: "no filter"
begin, opened = threading.Event(), []
def look():
    begin.wait()
    try:
        opened.append(bool(os.open("/dev/null", os.O_RDONLY)))
    except PermissionError:
        opened.append(False)
thread = threading.Thread(target=look)
thread.start()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
confinement.confine(512 << 20)
begin.set()
thread.join()
names = ("CORE", "FSIZE", "NOFILE", "MEMLOCK", "MSGQUEUE", "AS", "NPROC")
limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names}
user = [os.getresuid(), os.getresgid(), os.getgroups()] if sys.argv[1] == "partial" else None
os.write(1, json.dumps([opened, limits, size, user]).encode())
os._exit(0)
"""


@linux
@pytest.mark.parametrize("kind", ["whole", "partial"])
def test_the_limits_of_the_process(kind: str) -> None:
    """A thread that began before is confined as well; a partial sandbox has all limits and cannot start a process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        timeout=120,
    )
    opened, limits, size, user = json.loads(done.stdout)
    assert opened == [kind == "partial"]
    memory, processes = limits.pop("AS"), limits.pop("NPROC")
    assert memory[0] == memory[1]
    assert abs(memory[0] - size - (512 << 20)) < 16 << 20
    assert kind == "whole" or processes == [0, 0]
    most = {"CORE": 0, "FSIZE": 1 << 16, "NOFILE": 64, "MEMLOCK": 0, "MSGQUEUE": 0}
    assert limits == {name: [value, value] for name, value in most.items()}  # soft and hard: neither can be raised
    if os.geteuid() == 0 and user is not None:
        assert user == [[65534] * 3, [65534] * 3, []]


# ---------------------------------------------------------------------- what it inherits
SEEN = """
import json, os, sys
def files():
    for number in range(3, 256):
        try:
            found = os.fstat(number)
        except OSError:
            continue
        yield [found.st_dev, found.st_ino]
with open({path!r}, "w") as file:
    json.dump([dict(os.environ), list(files()), os.getcwd()], file)
"""
#: variables that Python needs, and those that this package sets
KEPT = {
    *(
        "PATH",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "SYSTEMROOT",
        "VIRTUAL_ENV",
        "PYTHONHOME",
        "TZ",
        "LC_ALL",
        "LC_CTYPE",
    ),
    *("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("OMP_STACKSIZE", "MALLOC_ARENA_MAX", "__CF_USER_TEXT_ENCODING", "LC_CTYPE"),
}


def test_the_process_inherits_no_variable_no_file_and_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It imports nothing from the working directory either, which is that of the checkpoints."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SEEN.format(path=str(tmp_path / "seen")))
    (tmp_path / "here").mkdir()
    for name in ("torch", "numpy", "lupa", "select", "codecs", "dpnn_bridge"):
        (tmp_path / "here" / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "secret").write_text("secret")
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "site"), *sys.path])
    monkeypatch.chdir(tmp_path / "here")
    for name in ("DPNN_SECRET", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "HTTPS_PROXY", "HOME", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, "secret")
    descriptor = os.open(tmp_path / "secret", os.O_RDWR)
    try:
        os.set_inheritable(descriptor, True)
        LuaBridge(sandbox=True).close()
    finally:
        os.close(descriptor)
    assert not (tmp_path / "ran").exists()
    variables, files, folder = json.loads((tmp_path / "seen").read_text())
    assert {*variables} - KEPT == set()
    status = (tmp_path / "secret").stat()
    assert [status.st_dev, status.st_ino] not in files
    assert folder == "/"


@linux
def test_a_new_sandbox_computes_gradients() -> None:
    """Other tests fork sandboxes from a process that has imported all that autograd imports at its first use."""
    code = "require 'nn' local l = nn.Tanh() l:forward(torch.zeros(2)) return l:backward(torch.zeros(2), torch.ones(2))"
    bridge = LuaBridge(sandbox=True)
    assert bridge.execute(code).tolist() == [1, 1]
    bridge.close()
