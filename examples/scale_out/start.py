"""Two processes behind one port: python start.py [PORT [REDIS_URL [CHECKPOINTS]]]

Then run client.py in another terminal. Whatever ends a process, kill -9 too, another is started in
its place. It needs a Redis, and `pip install "langgraph-ws[redis]" langgraph-checkpoint-sqlite`.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

from langgraph.checkpoint.sqlite import SqliteSaver

SERVE = Path(__file__).with_name("serve.py")
DEFAULTS = ["8765", "redis://127.0.0.1:6379/0", "checkpoints.db"]


def start(arguments):
    process = subprocess.Popen([sys.executable, SERVE, *arguments])
    print(f"process {process.pid}: try kill -9 {process.pid}", flush=True)
    return process


def leave(*_):
    raise SystemExit


def main():
    given = sys.argv[1:]
    arguments = given + DEFAULTS[len(given) :]
    signal.signal(signal.SIGTERM, leave)
    with SqliteSaver.from_conn_string(arguments[2]) as saver:
        saver.setup()  # once: processes that make the tables at the same time lock each other out
    processes = []
    try:
        while True:
            processes = [process for process in processes if process.poll() is None]
            while len(processes) < 2:
                processes.append(start(arguments))
            time.sleep(1)
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


main()
