"""Commands that send a signal to themselves, at the same point each time."""

import signal
import sys

CODE = """
import os, pkgutil, signal, sys
from drtf.tools.main import main

module, name, num_left, number = sys.argv[1:5]
del sys.argv[1:5]
owner, num_left = pkgutil.resolve_name(module), int(num_left)
work = getattr(owner, name)

def work_and_signal(*args, **kwargs):
    global num_left
    result = work(*args, **kwargs)
    num_left -= 1
    if num_left == 0:
        os.killpg(0, int(number))
    return result

os.setsid()  # the signal reaches this process and its workers, but not the test
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
setattr(owner, name, work_and_signal)
main()
"""


def interrupted_command(
    *words: object, function: str, num_calls: int, number: signal.Signals
) -> list[str]:
    """Return a command whose process group gets a signal after calls of a function.

    Args:
        words: The words of the command, without `drtf`.
        function: The function, such as `drtf.building.journal:Journal.append`.
        num_calls: After how many calls the signal comes.
        number: The signal.
    """
    owner, _, name = function.rpartition(".")
    options = (owner, name, num_calls, int(number))
    return [sys.executable, "-c", CODE, *map(str, (*options, *words))]
