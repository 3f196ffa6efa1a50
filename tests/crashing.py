"""A function for other processes, in a module that loads quickly there."""

import os
import signal


def ten_times_unless_three(item: int) -> int:
    """10 * item; 3 kills the process."""
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * item
