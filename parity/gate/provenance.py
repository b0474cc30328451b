"""Who works here, and on which commit, as Git says; nothing where there is no Git."""

from __future__ import annotations

import subprocess


def author() -> str:
    """Return the name that Git knows the user by, empty without one."""
    return _git("config", "user.name")


def revision() -> str:
    """Return the commit, with `+` where tracked files are changed, empty outside of a repository."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return f"{commit}+" if commit and _git("status", "--porcelain", "--untracked-files=no") else commit


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
