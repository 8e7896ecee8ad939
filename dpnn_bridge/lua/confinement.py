"""Drop the privileges of this process that untrusted code does not need.

``setrlimit`` limits memory and the number and size of files on every POSIX system. On Linux (x86-64 and aarch64) a
seccomp filter allows only the system calls that computation needs: memory, threads, clocks, reading and writing open
files. After that, no code in the process can open a file or socket or start a process, not even as root.
The filter is written here, because the libraries on PyPI for this purpose need libseccomp on the system.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

if sys.platform == "win32":
    raise ImportError("the process of a Lua sandbox needs Linux or macOS")
import resource

#: allowed system calls: name -> number on (x86-64, aarch64)
ALLOWED = {
    **{"read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "close": (3, 57)},
    **{"poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72)},
    **{"mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233)},
    **{"brk": (12, 214), "futex": (202, 98), "membarrier": (324, 283)},
    **{"set_robust_list": (273, 99), "rseq": (334, 293), "set_tid_address": (218, 96), "sigaltstack": (131, 132)},
    **{"rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "restart_syscall": (219, 128)},
    **{"sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168)},
    **{"getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173)},
    **{"getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177)},
    **{"clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101)},
    **{"gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165)},
    **{"getrandom": (318, 278), "uname": (63, 160), "sysinfo": (99, 179), "getrlimit": (97, 163)},
    **{"exit": (60, 93), "exit_group": (231, 94)},
}
_CLONE, _CLONE3, _TGKILL, _PRLIMIT, _SECCOMP = (56, 220), (435, 435), (234, 131), (302, 261), (317, 277)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of ALLOWED, AUDIT_ARCH
_CLONE_THREAD = 0x10000
_EPERM, _ENOSYS = 1, 38

# BPF and seccomp, linux/bpf_common.h and linux/seccomp.h
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 38, 4
_SET_MODE_FILTER, _ALL_THREADS = 1, 1

#: ID of the user and group without privileges
NOBODY = 65534


def confine(memory: int) -> list[str]:
    """Drop the privileges of this process.

    Args:
        memory: bytes that the process may allocate from now on.

    Returns:
        The restrictions that this system cannot enforce, as phrases for a warning; empty if all are enforced.
    """
    missing = []
    _set_limits(memory)
    _become_nobody()
    problem = _filter_system_calls()
    if problem:
        missing.append(f"it can still open files, use the network and start processes ({problem})")
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # no new process, unless it is root's
    return missing


def _set_limits(memory: int) -> None:
    limits = {"CORE": 0, "FSIZE": 1 << 16, "NOFILE": 64, "MEMLOCK": 0, "MSGQUEUE": 0}
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            limits["AS"] = int(file.read().split()[0]) * resource.getpagesize() + memory
    else:
        limits["DATA"] = memory
    for name, value in limits.items():
        limit = getattr(resource, f"RLIMIT_{name}", None)
        if limit is not None:
            hard = resource.getrlimit(limit)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))


def _become_nobody() -> None:
    if os.geteuid() != 0:
        return
    try:
        os.setgroups([])
        os.setgid(NOBODY)  # as root, this sets the real, effective and saved ID
        os.setuid(NOBODY)
    except OSError:
        pass  # a container without this user; the filter restricts root as well


def _filter_system_calls() -> str:
    """Install the filter in all threads; return an empty string, or why the system does not support it."""
    if sys.platform != "linux":
        return f"{sys.platform} has no seccomp"
    if platform.machine() not in _MACHINES or struct.calcsize("P") != 8:
        return f"no table of system calls for {platform.machine()}"
    column, arch = _MACHINES[platform.machine()]
    code = b"".join(struct.pack("<HBBI", *step) for step in _program(column, arch, os.getpid()))
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    program = Program(len(code) // 8, ctypes.addressof(buffer))
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return "no_new_privs is unavailable"
    if libc.syscall(_SECCOMP[column], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)) != 0:
        return f"seccomp: {os.strerror(ctypes.get_errno())}"
    return ""


def _program(column: int, arch: int, pid: int) -> list[tuple[int, int, int, int]]:
    """Return the filter as BPF instructions (code, jump if true, jump if false, operand)."""
    deny, allow = (_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW)

    def when(number: int, *steps: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
        return [(_EQUAL, 0, len(steps), number), *steps]

    steps = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, 0x40000000),  # system calls of the x32 ABI
        (_RETURN, 0, 0, _KILL),
    ]
    for numbers in ALLOWED.values():
        number = numbers[column]
        if number is not None:
            steps += when(number, allow)
    steps += when(_CLONE3[column], (_RETURN, 0, 0, _ERRNO | _ENOSYS))  # glibc then uses clone
    # new threads, but not new processes
    steps += when(_CLONE[column], (_LOAD, 0, 0, _ARGUMENTS), (_HAS_BITS, 0, 1, _CLONE_THREAD), allow, deny)
    # signals to this process only, for abort
    steps += when(_TGKILL[column], (_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 0, 1, pid), allow, deny)
    # limits may be read, not set: the third argument, a pointer to the new limit, must be null
    low, high = (_LOAD, 0, 0, _ARGUMENTS + 16), (_LOAD, 0, 0, _ARGUMENTS + 20)
    steps += when(_PRLIMIT[column], low, (_EQUAL, 0, 2, 0), high, (_EQUAL, 1, 0, 0), deny, allow)
    return [*steps, deny]
