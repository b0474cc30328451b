"""Has threads of this process wait for their turn instead of taking it.

MLX gives every operation to a thread of its own. Woken for a small one, that thread takes the processor from the thread
that is about to give it the next, and has nothing more to do at once: two changes of context an operation. Under the
policy for batch jobs a thread that is woken takes nobody's turn, and finds several operations when its own comes.

Source: sched(7), SCHED_BATCH; figures in docs/speed.md.
"""

from __future__ import annotations

import os
import sys


def schedule_as_batch() -> bool:
    """Schedule this thread, and threads and processes that it starts from now on, as batch jobs; return whether it is.

    Linux alone has the policy, and some sandboxes forbid it. A policy that somebody chose is left as it is.
    """
    if sys.platform != "linux":
        return False
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        try:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        except OSError:
            return False
    return os.sched_getscheduler(0) == os.SCHED_BATCH
