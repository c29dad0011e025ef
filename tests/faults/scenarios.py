"""What is done to processes and servers, and what has to hold afterwards.

Each scenario returns what it measured, for the table of `python -m tests.faults`.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from langgraph_sdk import get_client
from redis.asyncio import Redis

from langgraph_ws.client import Client, RequestRefused, Run, RunFailedError
from langgraph_ws.frames import AttemptStarted
from langgraph_ws.log.redis_cluster import slot_of
from tests.browser import launched
from tests.faults.app import text_of
from tests.faults.cluster import (
    LEASE_S,
    SPOKEN,
    Cluster,
    answer_all,
    check_runs,
    cluster,
    converse,
)
from tests.servers import RedisServer, free_port, redis_cluster, sentinel_group

T = TypeVar("T")

PATIENCE_S = 60.0


async def check_all(
    made: Cluster, runs: Sequence[Sequence[Run]], threads: Sequence[str]
) -> tuple[int, int]:
    """Check conversations to the last letter; how many nodes ran again, and the attempts."""
    again = attempts = 0
    for conversation, thread in zip(runs, threads, strict=True):
        ids = [run.run_id for run in conversation]
        try:
            check_runs(conversation)
            await made.check_state(thread)
            again += made.check_notes(ids)
        except AssertionError:
            print(await made.describe(thread, ids))
            raise
        attempts += sum(max(note.attempt for note in made.notes(run)) - 1 for run in ids)
    return again, attempts


async def start_many(
    made: Cluster, client: Client, threads: Sequence[str]
) -> list[asyncio.Task[list[Run]]]:
    return [made.spawn(converse(client, thread)) for thread in threads]


async def finish_all(made: Cluster, tasks: Sequence[asyncio.Task[T]]) -> list[T]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return list(await asyncio.gather(*tasks))
    except BaseException:
        print(made.logs())
        raise


async def kill_owners(
    directory: Path, redis: RedisServer, checkpoints: str, *, kills: int, seed: int, batch: int = 6
) -> str:
    """kill -9 of a process at random moments; runs are spread over the processes by chance."""
    chance = random.Random(seed)
    killed = done = again = attempts = 0
    slowest = 0.0
    async with cluster(directory, redis.url, checkpoints, prefix=f"kill{seed}") as made:
        while killed < kills:
            threads = [f"{seed}-{done + number}" for number in range(batch)]
            async with made.client() as client, made.client() as other:
                tasks = await start_many(made, client, threads[::2])
                tasks += await start_many(made, other, threads[1::2])
                order = [*threads[::2], *threads[1::2]]
                await asyncio.sleep(chance.uniform(0.05, 1.4))
                victim = chance.choice(made.processes)
                when = time.time()
                notes = made.notes()
                theirs = {note.run_id for note in notes if note.pid == victim.pid}
                await made.kill(victim)
                await made.add()
                runs = await finish_all(made, tasks)
            more, took = await check_all(made, runs, order)
            again, attempts, done = again + more, attempts + took, done + batch
            hit = [run.run_id for pair in runs for run in pair if run.run_id in theirs]
            for run_id in hit:
                later = [note for note in made.notes(run_id) if note.attempt > 1]
                if later:
                    killed += 1
                    slowest = max(slowest, min(note.time for note in later) - when)
            killed += not kills  # never ends for want of a hit
    assert slowest <= LEASE_S + 6, slowest
    return (
        f"{done} conversations, {killed} runs hit, {attempts} take-overs, {again} nodes ran again, "
        f"slowest take-over {slowest:.1f} s (lease {LEASE_S:.0f} s)"
    )


async def kill_under_javascript(
    directory: Path, redis: RedisServer, checkpoints: str, *, times: int
) -> str:
    """kill -9 of the owner under the JavaScript client: its view is that of an undisturbed run."""
    script = Path(__file__).parents[1] / "js" / "converse.mjs"
    attempts = 0
    async with cluster(directory, redis.url, checkpoints, prefix="js") as made:
        for number in range(times):
            thread = f"js-{number}"
            async with asyncio.timeout(PATIENCE_S), _node(script, made.url, thread) as node:
                assert node.stdout is not None
                run_id = (await node.stdout.readline()).decode().strip()
                owner = await made.owned(run_id, ["plan", "left", "second", "act"][number % 4])
                await asyncio.sleep(0.05)
                await made.kill(owner)
                await made.add()
                seen = json.loads(await node.stdout.read())
                assert await node.wait() == 0
            assert (seen["status"], seen["text"]) == ("completed", text_of("finish"))
            said = [
                "".join(block["text"] for block in message["blocks"] if block["kind"] == "text")
                for message in seen["messages"]
                if message["role"] == "assistant"
            ]
            assert Counter(said) == Counter([*map(text_of, SPOKEN), "you said yes"]), said
            assert all(message["status"] == "finished" for message in seen["messages"]), seen
            await made.check_state(thread)
            attempts += sum(run["attempt"] - 1 for run in seen["runs"])
    return f"{times} kills, {attempts} take-overs: the view is that of an undisturbed run"


async def kill_under_official_clients(
    directory: Path, redis: RedisServer, checkpoints: str, *, times: int
) -> str:
    """kill -9 of the owner under unmodified clients: each shows what an undisturbed run shows.

    AG-UI has no word for taking back what was said, so there a draft may stay beside the message.
    """
    clients = Path(__file__).parents[1] / "clients"
    speak = {
        "useStream": lambda url, thread: _talk(clients / "converse.mjs", url, thread),
        "langgraph_sdk": _talk_python,
        "aisdk": lambda url, thread: _talk(clients / "ui" / "converse.mjs", "aisdk", url, thread),
        "agui": lambda url, thread: _talk(clients / "ui" / "converse.mjs", "agui", url, thread),
    }
    attempts = drafts = 0
    async with cluster(directory, redis.url, checkpoints, prefix="official") as made:
        for number in range(times):
            for name, talk in speak.items():
                thread = str(uuid4())
                known = {note.run_id for note in made.notes()}
                talking = made.spawn(talk(made.url.replace("ws:", "http:"), thread))
                # Not the first node: a page whose connection breaks before its subscriptions are
                # answered never asks for them again (@langchain/langgraph-sdk 1.15).
                node = ["left", "second", "act"][number % 3]
                async with asyncio.timeout(PATIENCE_S):
                    run_id = await _run_that_reaches(made, node, known)
                    owner = await made.owned(run_id, node)
                    await asyncio.sleep(0.05)
                    await made.kill(owner)
                    await made.add()
                    seen = await talking
                try:
                    assert seen["question"] == ["go on?"], seen
                    expected = Counter([*map(text_of, SPOKEN), "you said yes"])
                    said = Counter(text for text in seen["said"] if text)
                    more = said - expected
                    assert not expected - said, (name, said)
                    assert not more or name == "agui", (name, more)
                    drafts += more.total()
                    await made.check_state(thread)
                except AssertionError:
                    print(name, node, await made.describe(thread, [run_id]))
                    raise
                attempts += max(note.attempt for note in made.notes(run_id)) - 1
    return (
        f"{times} kills under each of {len(speak)}, {attempts} take-overs: nothing lost or "
        f"doubled, but {drafts} drafts under AG-UI"
    )


async def kill_under_playground(
    directory: Path, redis: RedisServer, checkpoints: str, *, times: int
) -> str:
    """kill -9 of the owner under the playground, in a browser: the page shows what is saved."""
    attempts = 0
    async with cluster(directory, redis.url, checkpoints, prefix="page") as made, launched() as web:
        for number in range(times):
            node = ["plan", "left", "second", "act"][number % 4]
            known = {note.run_id for note in made.notes()}
            page = await web.new_page()
            page.set_default_timeout(PATIENCE_S * 1000)
            async with asyncio.timeout(PATIENCE_S):
                await page.goto(made.url.replace("ws:", "http:"))
                field = page.get_by_label("Message", exact=True)
                await field.fill("go")
                await field.press("Enter")
                run_id = await _run_that_reaches(made, node, known)
                owner = await made.owned(run_id, node)
                await asyncio.sleep(0.05)
                await made.kill(owner)
                await made.add()
                asked = page.get_by_role("group").filter(has_text="go on?")
                await asked.get_by_label("Answer", exact=True).fill("yes")
                await page.get_by_role("button", name="Answer", exact=True).click()
                last = page.locator(".message", has_text=text_of("finish"))
                await last.wait_for()
                shown = await page.locator(".message").all_inner_texts()
                thread = page.url.rpartition("thread=")[2]
            await page.close()
            try:
                for text in (*map(text_of, SPOKEN), "you said yes"):
                    assert sum(text in message for message in shown) == 1, (text, shown)
                await made.check_state(thread)
            except AssertionError:
                print(node, await made.describe(thread, [run_id]))
                raise
            attempts += max(note.attempt for note in made.notes(run_id)) - 1
    return f"{times} kills, {attempts} take-overs: the page shows each message once, and whole"


async def _run_that_reaches(made: Cluster, node: str, known: Collection[str]) -> str:
    """The run that is none of the known ones, once it has begun this node."""
    while True:
        for note in made.notes():
            if note.run_id not in known and note.node == node:
                return note.run_id
        await asyncio.sleep(0.01)


async def _talk(script: Path, *arguments: str) -> Any:
    """What a script prints of its conversation."""
    async with _node(script, *arguments) as node:
        assert node.stdout is not None
        printed = await node.stdout.read()
        assert await node.wait() == 0
    return json.loads(printed)


@asynccontextmanager
async def _node(script: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A script that runs as long as this block."""
    node = await asyncio.create_subprocess_exec(
        "node", script, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield node
    finally:
        with suppress(ProcessLookupError):
            node.kill()
        await node.wait()


async def _talk_python(url: str, thread_id: str) -> Any:
    """What `langgraph_sdk` tells of a conversation."""
    async with (
        get_client(url=url, api_key=None) as client,
        client.threads.stream(thread_id, assistant_id="agent", transport="websocket") as thread,
    ):
        await thread.run.start(input={"messages": [{"role": "user", "content": "go"}]})
        async with asyncio.timeout(PATIENCE_S):
            while not thread.interrupted:  # noqa: ASYNC110 - it has nothing to wait for
                await asyncio.sleep(0.01)
            asked = list(thread.interrupts)
            await thread.run.respond("yes")
            output = await thread.output
    said = [message["content"] for message in output["messages"] if message["type"] == "ai"]
    return {"question": [each["value"] for each in asked], "said": said}


async def stop_owner(directory: Path, redis: RedisServer, checkpoints: str, *, times: int) -> str:
    """SIGSTOP of the owner for longer than the lease, and back: it writes nothing any more."""
    written = 0
    async with cluster(directory, redis.url, checkpoints, prefix="stop") as made:
        for number in range(times):
            thread = f"stop-{number}"
            async with made.client() as client:
                run = await client.new_chat("go", thread_id=thread)
                node = ["plan", "left", "second", "act"][number % 4]
                owner = await made.owned(run.run_id, node)
                owner.send_signal(signal.SIGSTOP)
                # The client may hang on the stopped process; another one is served by the other.
                await asyncio.sleep(LEASE_S * 1.5)
                async with asyncio.timeout(20):
                    while not any(note.attempt > 1 for note in made.notes(run.run_id)):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                owner.send_signal(signal.SIGCONT)
                await asyncio.wait_for(run.result(), PATIENCE_S)
                second = await run.answer("yes")
                await asyncio.wait_for(second.result(), PATIENCE_S)
                check_runs([run, second])
            await made.check_state(thread)
            late = [
                note
                for note in made.notes(run.run_id)
                if note.attempt == 1 and note.event == "end" and note.node == node
            ]
            written += len(late)
    return f"{times} times: log and checkpoints as if undisturbed ({written} zombie nodes ended)"


async def block_owner(directory: Path, redis: RedisServer, checkpoints: str, *, times: int) -> str:
    """A node blocks the event loop of its process: for less than the lease, and for longer."""
    seconds = LEASE_S * 2.5
    attempts = []
    for lease in (seconds * 2, LEASE_S):
        options: dict[str, Any] = {"prefix": f"block{lease}", "block": seconds, "lease": lease}
        async with cluster(directory, redis.url, checkpoints, **options) as made:
            attempts.append(0)
            for number in range(times):
                thread = f"{lease}-{number}"
                async with made.client() as client:
                    runs = await finish_all(made, await start_many(made, client, [thread]))
                attempts[-1] += (await check_all(made, runs, [thread]))[1]
    assert attempts[0] == 0, attempts
    assert attempts[1] >= times, attempts
    return (
        f"{seconds:.0f} s, {times} times each: no take-over where the lease is {seconds * 2:.0f} s"
        f", {attempts[1]} where it is {LEASE_S:.0f} s; nothing lost or doubled"
    )


async def ask_elsewhere(
    directory: Path, redis: RedisServer, checkpoints: str, *, times: int
) -> str:
    """Answer, cancel and double texting at a process that does not carry the run."""
    slowest = 0.0
    async with cluster(directory, redis.url, checkpoints, prefix="ask", processes=1) as made:
        port = free_port()
        await made.add(port=port)
        async with made.client() as here, made.client(port=port) as there:
            for number in range(times):
                run = await here.new_chat("go", thread_id=f"answer-{number}")
                await run.result()
                thread = await there.attach(f"answer-{number}")
                second = await thread.answer("yes")
                await second.result()
                check_runs([run, second])
                await made.check_state(f"answer-{number}")

                run = await here.new_chat("go", thread_id=f"cancel-{number}")
                await made.owned(run.run_id, ["plan", "second", "act"][number % 3])
                began = time.monotonic()
                await there.cancel(run.run_id)
                assert (await run.result()).status == "cancelled"
                slowest = max(slowest, time.monotonic() - began)

                await _text_twice(made, here, there, f"twice-{number}")
    return f"{times} times each; slowest cancellation {slowest * 1000:.0f} ms"


async def _text_twice(made: Cluster, here: Client, there: Client, thread_id: str) -> None:
    """Start a run on a thread whose run another process carries, in every way."""

    async def carried() -> Run:
        run = await here.new_chat("go", thread_id=thread_id)
        await made.owned(run.run_id, "plan")
        return run

    run = await carried()
    with pytest.raises(RequestRefused) as refused:
        await there.new_chat("more", thread_id=thread_id, multitask_strategy="reject")
    assert refused.value.code == "thread_busy"
    waits = await there.new_chat("more", thread_id=thread_id, multitask_strategy="enqueue")
    await answer_all(run)  # the queue waits for an answer, too
    await answer_all(waits)
    for strategy in ("interrupt", "rollback"):
        run = await carried()
        instead = await there.new_chat("more", thread_id=thread_id, multitask_strategy=strategy)
        assert (await run.result()).status == "cancelled"
        await answer_all(instead)
        said = [text for kind, text in await made.state(thread_id) if kind == "human"]
        assert said[-1] == "more"
        assert (said[-2] == "go") == (strategy == "interrupt"), (strategy, said)


async def rolling_restart(
    directory: Path, redis: RedisServer, checkpoints: str, *, restarts: int, runs: int
) -> str:
    """SIGTERM of one process after the other, under so many runs at once."""
    longest = 0.0
    over = asyncio.Event()
    async with cluster(
        directory, redis.url, checkpoints, prefix="roll", lease=15.0, delay=0.03
    ) as made:
        talked: dict[str, list[Run]] = {}

        async def talk(client: Client, number: int) -> None:
            for thread in map(f"roll-{number}-{{}}".format, count()):
                talked[thread] = await converse(client, thread)
                if over.is_set():
                    return

        async with made.client() as client, made.client() as other:
            tasks = [made.spawn(talk((client, other)[n % 2], n)) for n in range(runs)]
            done, moved = 0, False
            while done < restarts or not moved:
                assert done < restarts + 5, "no run was on its way when its process was stopped"
                await asyncio.sleep(0.3)
                began = time.monotonic()
                await made.add()
                assert await made.drain(made.processes[0]) == 0, made.logs()
                longest = max(longest, time.monotonic() - began)
                done, moved = done + 1, any(note.attempt > 1 for note in made.notes())
            over.set()
            await finish_all(made, tasks)
        again, attempts = await check_all(made, list(talked.values()), list(talked))
        assert again == 0, f"{again} nodes ran twice though nothing was killed"
    return (
        f"{done} restarts under {len(talked)} conversations, {runs} at a time: {attempts} "
        f"hand-overs, no node twice, slowest restart {longest:.1f} s"
    )


async def kill_redis(directory: Path, redis: RedisServer, checkpoints: str, *, kills: int) -> str:
    """kill -9 of Redis, with its append-only file; sockets stay and nothing is lost."""
    assert redis.appendonly
    chance = random.Random(5)
    async with cluster(
        directory, redis.url, checkpoints, prefix="redis", lease=15.0, delay=0.02
    ) as made:
        number = done = 0
        while done < kills:
            threads = [f"redis-{number + n}" for n in range(4)]
            number += 4
            async with made.client() as client:
                tasks = await start_many(made, client, threads)
                while done < kills and not all(task.done() for task in tasks):
                    await asyncio.sleep(chance.uniform(0.05, 0.6))
                    redis.kill()
                    await asyncio.sleep(chance.uniform(0, 0.3))
                    await asyncio.to_thread(redis.start)
                    done += 1
                runs = await finish_all(made, tasks)
                assert client.state.status == "open"
            _, attempts = await check_all(made, runs, threads)
            assert attempts == 0
    return f"{kills} kills during {number} conversations: nothing lost, no take-over"


async def fail_over(directory: Path, _: RedisServer, checkpoints: str, *, times: int) -> str:
    """kill -9 of a master of Redis; sentinels make its replica the master, and all goes on."""

    @contextmanager
    def group(place: Path, _: int) -> Iterator[tuple[str, RedisServer]]:
        with sentinel_group(place) as made:
            yield made.url, made.master

    return await _kill_masters(directory, group, checkpoints, "over", times=times)


async def fail_over_in_cluster(
    directory: Path, _: RedisServer, checkpoints: str, *, times: int
) -> str:
    """kill -9 of a master of a Redis Cluster; its replica is elected, and all goes on."""

    @contextmanager
    def nodes(place: Path, number: int) -> Iterator[tuple[str, RedisServer]]:
        with redis_cluster(place, replicas=True, timeout_ms=1_000) as made:
            yield made.url, made.masters[number % 3]

    return await _kill_masters(directory, nodes, checkpoints, "elect", times=times)


async def _kill_masters(
    directory: Path,
    group: Callable[[Path, int], AbstractContextManager[tuple[str, RedisServer]]],
    checkpoints: str,
    prefix: str,
    *,
    times: int,
) -> str:
    """kill -9 of a master that has a replica, in a new group each time."""
    chance = random.Random(9)
    gaps: list[object] = []
    longest = 0.0
    for number in range(times):
        place = directory / f"group{number}"
        place.mkdir()
        with group(place, number) as (url, master):
            async with cluster(
                place, url, checkpoints, prefix=prefix, lease=15.0, delay=0.02
            ) as made:
                threads = [f"{prefix}-{number}-{n}" for n in range(4)]
                async with made.client() as client:
                    began = time.monotonic()
                    tasks = [made.spawn(converse(client, it, gaps.append)) for it in threads]
                    await asyncio.sleep(chance.uniform(0.2, 1.2))
                    assert not any(task.done() for task in tasks)
                    master.kill()
                    await finish_all(made, tasks)
                    longest = max(longest, time.monotonic() - began)
                for thread, task in zip(threads, tasks, strict=True):
                    await made.check_state(thread)
                    assert made.check_notes([run.run_id for run in task.result()]) == 0
    return (
        f"{times} masters killed under {4 * times} conversations: {len(gaps)} gaps told, no node "
        f"ran twice, every conversation ended with the right state, the slowest in {longest:.1f} s"
    )


async def move_slots(directory: Path, _: RedisServer, checkpoints: str, *, times: int) -> str:
    """Every slot moves from node to node of a Redis Cluster, key by key."""
    moved = number = 0
    with redis_cluster(directory) as nodes:
        async with cluster(
            directory, nodes.url, checkpoints, prefix="move", lease=15.0, delay=0.02
        ) as made:
            slots = [slot_of(f"{{{shard}}}") for shard in range(16)]
            for node in islice(cycle(nodes.masters), times):
                threads = [f"move-{number + n}" for n in range(4)]
                number += 4
                async with made.client() as client:
                    tasks = await start_many(made, client, threads)
                    await asyncio.sleep(0.2)
                    for slot in slots:
                        if nodes.master_of(slot) is not node:
                            await asyncio.to_thread(nodes.move_key_by_key, slot, node, 0.005)
                            moved += 1
                    runs = await finish_all(made, tasks)
                again, attempts = await check_all(made, runs, threads)
                assert (again, attempts) == (0, 0)
    return f"{moved} moves under {number} conversations: nothing lost or doubled, no take-over"


async def wipe_redis(directory: Path, redis: RedisServer, checkpoints: str, *, times: int) -> str:
    """FLUSHALL in mid-run: a new epoch, a gap, a snapshot, and the run goes on."""
    seen: list[object] = []
    async with cluster(directory, redis.url, checkpoints, prefix="wipe", delay=0.02) as made:
        for number in range(times):
            thread = f"wipe-{number}"
            async with made.client() as client:
                run = await client.new_chat("go", thread_id=thread, on_gap=seen.append)
                await made.owned(run.run_id, "left" if number % 2 else "act")
                async with Redis.from_url(redis.url) as connection:
                    await connection.flushall()
                await asyncio.wait_for(run.result(), PATIENCE_S)
                second = await run.answer("yes")
                await asyncio.wait_for(second.result(), PATIENCE_S)
            await made.check_state(thread)
            assert made.check_notes([run.run_id, second.run_id]) == 0
    assert len(seen) >= times
    return f"{times} times: {len(seen)} gaps told, every conversation ended with the right state"


async def lose_redis(directory: Path, redis: RedisServer, checkpoints: str) -> str:
    """Redis away for longer than everybody's patience: told, closed, and taken up again."""
    assert redis.appendonly
    async with cluster(
        directory, redis.url, checkpoints, prefix="away", patience=1.0, heartbeat=1.0
    ) as made:
        async with made.client() as client:
            begun = await client.new_chat("go", thread_id="away")
            conversation = made.spawn(answer_all(begun))
            while not made.notes():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            redis.kill()
            async with asyncio.timeout(20):
                while client.state.status == "open":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await asyncio.to_thread(redis.start)
            runs = await asyncio.wait_for(conversation, PATIENCE_S)
        again, _ = await check_all(made, [runs], ["away"])
        entries = await made.entries("away")
        assert sum(isinstance(entry.frame, AttemptStarted) for entry in entries) == 1
    return f"clients were sent away, then the run went on (1 take-over, {again} nodes again)"


async def lose_without_checkpoints(directory: Path, redis: RedisServer) -> str:
    """kill -9 of a process whose graph has no checkpointer: an end, not silence."""
    async with (
        cluster(directory, redis.url, "none", prefix="none") as made,
        made.client() as client,
    ):
        run = await client.new_chat("go", thread_id="none")
        owner = await made.owned(run.run_id)
        began = time.monotonic()
        await made.kill(owner)
        with pytest.raises(RunFailedError) as failed:
            await asyncio.wait_for(run.result(), LEASE_S + 6)
        assert failed.value.code == "lost"
        assert run.status == "lost"
    return f"told as lost after {time.monotonic() - began:.1f} s"
