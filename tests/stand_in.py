"""Stands in for the Python interpreter: hands its arguments, files, folder and environment over to be run in a fork.

It lives as long as the fork, ends as the fork does, and takes the fork with it when it is killed. Started without
`site`, and with few imports, for its whole point is to be quick. See `forked.py`.
"""

import os
import signal
import sys
from _socket import AF_UNIX, SCM_RIGHTS, SOL_SOCKET, socket

_, orders, *command = sys.argv
order = {"command": command, "folder": os.getcwd(), "environ": dict(os.environ)}  # noqa: PTH109 - pathlib takes long
fork = socket(AF_UNIX)
fork.connect(orders)
files = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
fork.sendmsg([ascii(order).encode() + b"\n"], [(SOL_SOCKET, SCM_RIGHTS, files)])
nothing = os.open(os.devnull, os.O_RDWR)
for number in range(3):  # the fork has them now, and its end has to be their end
    os.dup2(nothing, number)
fork.recv(4)
code = int.from_bytes(fork.recv(4) or b"\1\0\0\0", "little", signed=True)
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
