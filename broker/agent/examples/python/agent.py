#!/usr/bin/env python3
"""A whole Taffrail agent with nats-py (docs/agents.md): agent.py NAME [CAPABILITY...]; the same
name is the same agent on every start, and who was registered from outside is told its id."""
import asyncio, json, os, signal, sys, uuid
from contextlib import suppress
import nats
TENANT, NAME = os.environ.get("TAFFRAIL_TENANT", "default"), sys.argv[1]
ME = os.environ.get("TAFFRAIL_AGENT_ID") or str(uuid.uuid5(uuid.NAMESPACE_OID, f"agent\n{TENANT}\n{NAME}"))
OWN = f"taffrail.{TENANT}.agent.{ME}"
AWAY = (nats.errors.TimeoutError, nats.errors.NoRespondersError)
leaving, beat_now, held, seq = asyncio.Event(), asyncio.Event(), [], 0

async def work(task, progress):
    """Yours to replace: adds the payload's numbers up, telling how far it is."""
    numbers = task["payload"]["numbers"]
    for done in range(1, len(numbers) + 1):
        await progress(100 * done / len(numbers), f"{done} of {len(numbers)}")
    return {"sum": sum(numbers)}

async def command(nc, kind, id, name, body):
    """Has a command decided: the same id again until there is an answer, so it happens once."""
    headers, body = {"Taffrail-Command-Id": str(uuid.uuid4())}, json.dumps(body).encode()
    while True:
        with suppress(*AWAY):
            reply = await nc.request(f"{OWN}.req.{kind}.{id}.{name}", body, timeout=5, headers=headers)
            outcome = (newest := json.loads(reply.data)).get("original") or newest
            if outcome["status"] == "accepted":
                return
            if outcome["status"] != "busy":
                raise PermissionError(outcome["problem"]["detail"])
        await asyncio.sleep(1)

async def run(nc, task):
    async def say(name, **body):
        global seq
        seq += 1  # whoever watches sees that the work gets on
        await command(nc, "task", task["task_id"], name, {"lease_token": task["lease"]["token"], **body})
    held.append({"task_id": task["task_id"], "lease_token": task["lease"]["token"]})
    try:
        await say("start")
        result = await work(task, lambda percent, text: say("progress", percent=percent, message=text))
        await say("complete", result=result)
    except PermissionError as refusal:  # a stale lease: the task is another's by now
        print(f"task {task['task_id']}: {refusal}", flush=True)
    except Exception as error:  # another attempt does not mend a bad payload
        await say("fail", error={"message": repr(error)}, retryable=not isinstance(error, (TypeError, KeyError)))
    held.clear()

async def heartbeats(nc):
    while True:  # they extend the leases of what is held
        beat = {"observed_state": "busy" if held else "ready", "progress_seq": seq, "tasks": held}
        await nc.publish(f"{OWN}.heartbeat", json.dumps({**beat, "slots_free": 1 - len(held)}).encode())
        beat_now.clear()
        await asyncio.wait([asyncio.create_task(beat_now.wait())], timeout=3)

async def control(message):
    if not message.data: return await message.respond(b"")  # another of this name asks: are you there?
    word = json.loads(message.data)["command"]
    {"drain": leaving, "stop": leaving, "beat": beat_now}.get(word, asyncio.Event()).set()

async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    nc = await nats.connect(os.environ["TAFFRAIL_NATS_URL"], token=os.environ.get("TAFFRAIL_NATS_TOKEN"), max_reconnect_attempts=-1)
    await nc.subscribe(f"{OWN}.control", cb=control)
    await command(nc, "agent", ME, "register", {"name": NAME, "capabilities": sys.argv[2:], "slots": 1})
    await command(nc, "agent", ME, "mark_ready", {})
    beating = asyncio.create_task(heartbeats(nc))
    print("ready", ME, flush=True)
    claim = json.dumps({"agent_id": ME, "wait_ms": 2000, "lease_ms": 15000}).encode()
    while not leaving.is_set():
        with suppress(*AWAY):  # old_style: an inbox of its own, so the scheduler sees when nobody waits
            reply = await nc.request(f"{OWN}.req.queue.default.claim", claim, timeout=6, old_style=True)
            for task in (answer := json.loads(reply.data))["tasks"]:
                await run(nc, task)
            await asyncio.sleep(1 if answer.get("problem") else 0)
    beating.cancel()
    await command(nc, "agent", ME, "report", {"observed_state": "offline"})
    await nc.drain()
asyncio.run(main())
