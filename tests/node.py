"""Node, with the packages that a directory of tests needs (`npm ci` there installs them)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

OLDEST_NODE = 20


def lacking(what: str) -> NoReturn:
    """Skip for this reason, except where nothing may be skipped."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(what)
    pytest.skip(what)


def node(directory: Path) -> str:
    """The path of a Node that is new enough; the directory's packages are installed, too."""
    path = shutil.which("node")
    if path is None:
        lacking("node is not installed")
    version = run(path, "--version", cwd=directory)
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        lacking(f"node is {version}; {OLDEST_NODE} or later is needed")
    if not (directory / "node_modules").is_dir():
        lacking(f"what {directory.name} needs is not installed: run `npm ci` in {directory}")
    return path


def run(*command: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 30) -> str:
    """What a command prints, once it has succeeded."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHON": sys.executable, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def passed(output: str) -> int:
    """How many tests passed, none having failed or been left out."""
    counts = {name: int(number) for name, number in re.findall(r"^# (\w+) (\d+)$", output, re.M)}
    assert counts["fail"] == counts["cancelled"] == counts["skipped"] == counts["todo"] == 0, output
    return counts["pass"]


def hosts_named(lock_file: Path) -> list[str]:
    """Where a lock file names the host that packages come from; there should be none."""
    lines = lock_file.read_text(encoding="utf-8").splitlines()
    at_their_authors = re.compile(r'^ *"url": ')  # where packages ask for funds
    return [
        line.strip()
        for line in lines
        if "resolved" in line or ("://" in line and not at_their_authors.match(line))
    ]
