"""One target of `fuzz`, fed by atheris: `python -m tests.security.guided NAME SECONDS PLACE`."""

from __future__ import annotations

import logging
import sys

import atheris

with atheris.instrument_imports(include=["langgraph_ws"]):
    from tests.security import fuzz


def main() -> None:
    name, seconds, directory = sys.argv[1:]
    logging.disable()
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={fuzz.LONGEST}",
        f"-timeout={seconds}",
        f"-artifact_prefix={directory}/",
        "-print_final_stats=1",
    ]
    target = fuzz.TARGETS[name]

    def feed(data: bytes) -> None:
        fuzz.timed(target, data)

    atheris.Setup([sys.argv[0], *options], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
