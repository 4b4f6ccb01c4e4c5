"""Stops one thread of a process, for ever: PROCESS THREAD_NAME. Prints `stopped`, and ends with the
process."""

import ctypes
import os
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000

process, name = sys.argv[1:]
task = f"/proc/{process}/task"
threads = [int(t) for t in os.listdir(task) if open(f"{task}/{t}/comm").read().strip() == name]
libc = ctypes.CDLL(None, use_errno=True)
for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
    if libc.ptrace(request, threads[0], None, None) != 0:
        sys.exit(f"ptrace: {os.strerror(ctypes.get_errno())}")
os.waitpid(threads[0], WALL)
print("stopped", flush=True)
os.waitpid(threads[0], WALL)
