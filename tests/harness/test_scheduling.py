"""A process of the project's own is a batch job, where the system has such and nobody chose otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from worker_tasks import policy_of_plan

from parity.device_options import Place
from parity.run_jobs import Asked
from parity.scheduling import schedule_as_batch
from parity.spec.profile import load_profile
from parity.workers import work

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the policy is Linux's")
AS_ANY_OTHER = "os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))"
"""What a new process begins with: this one may be a batch job by now, which is inherited."""
SCHEDULED = """
import os, threading
from parity.scheduling import schedule_as_batch

{before}
print(schedule_as_batch(), os.sched_getscheduler(0))
later = threading.Thread(target=lambda: print(os.sched_getscheduler(0)))
later.start()
later.join()
"""


def scheduled(before: str = "") -> list[str]:
    """Return what a new process prints, in which `before` ran first."""
    code = SCHEDULED.format(before=before)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return run.stdout.split()


@ON_LINUX
def test_threads_that_start_later_are_batch_jobs_too() -> None:
    batch = str(os.SCHED_BATCH)
    assert scheduled(AS_ANY_OTHER) == ["True", batch, batch]


@ON_LINUX
def test_a_policy_that_somebody_chose_is_left() -> None:
    idle = str(os.SCHED_IDLE)
    assert scheduled("os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))") == ["False", idle, idle]


@ON_LINUX
def test_a_sandbox_that_forbids_it_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_OTHER)
    monkeypatch.setattr(os, "sched_setscheduler", forbid)
    assert not schedule_as_batch()


def test_another_system_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: pytest.fail("asked the system"), raising=False)
    assert not schedule_as_batch()


@ON_LINUX
def test_workers_of_a_run_are_batch_jobs() -> None:
    asked = Asked(("pooler",), (load_profile("canonical"),), ("f32",), "quick", 0, Place(), "bundled", ())
    assert list(work(policy_of_plan, [asked], 1)) == [os.SCHED_BATCH]


@ON_LINUX
def test_a_run_in_one_process_is_a_batch_job(tmp_path: Path) -> None:
    run = "from parity.cli import app; app(['run', 'pooler', '--rung', 'f32', '--budget', 'quick', '--seed', '0'])"
    before = "import atexit; atexit.register(lambda: print(os.sched_getscheduler(0)))"
    code = f"import os; {AS_ANY_OTHER}; {before}; os.environ['PARITY_JOBS'] = '1'; {run}"
    command = [sys.executable, "-c", code]
    end = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path)
    assert end.stdout.split()[-1] == str(os.SCHED_BATCH)
