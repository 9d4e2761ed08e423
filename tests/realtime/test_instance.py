"""One process: its parts, its loops, its start and end."""

import asyncio
import logging

import pytest
from django.db import OperationalError

from realtime import control, hooks, instance, registry, services
from realtime.control import DisconnectCommand
from realtime.instance import Instance
from realtime.outbox import Outbox
from realtime.redis_client import SyncRedisServers
from realtime.session import Session
from realtime.snapshot import ChannelOptions, Snapshot
from tests.docs.documents import code, document
from tests.realtime.client import NAMESPACES, SECRET, SNAPSHOT, Client, CommandError, token
from tests.realtime.conftest import until, within
from tests.realtime.frames import RecordingWriter


@pytest.fixture
def loaded(monkeypatch, configure):
    """Return a way to say what the database holds, or how it fails."""
    configure(SNAPSHOT_POLL_SECONDS=0.02, TOKEN_HMAC_SECRET=SECRET, DEMO=False)
    holds = [SNAPSHOT]

    def load(known):
        if isinstance(holds[0], Exception):
            raise holds[0]
        return holds[0]

    monkeypatch.setattr("realtime.snapshot.load_if_changed", load)

    def loaded(what):
        holds[0] = what

    return loaded


@pytest.fixture
async def started(redis_server, loaded):
    running = await instance.ensure_started()
    await until(lambda: running.snapshot is not None and running.hears_control)
    yield running
    await instance.stop_current()


async def test_there_is_one_instance_of_a_loop(started):
    assert await instance.ensure_started() is started
    assert instance.current() is started


async def test_jobs_of_other_apps_run_as_long_as_the_instance(redis_server, loaded, monkeypatch):
    monkeypatch.setattr("realtime.hooks.jobs", {})
    steps = []

    @hooks.background("a job")
    async def job():
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("ended")

    await instance.ensure_started()
    await until(lambda: steps == ["begun"])
    await within(instance.stop_current())

    assert steps == ["begun", "ended"]


async def test_a_job_that_fails_ends_the_instance(redis_server, loaded, monkeypatch):
    monkeypatch.setattr("realtime.hooks.jobs", {})
    failures = []

    @hooks.background("a job")
    async def job():
        raise ValueError("a mistake")

    running = await instance.ensure_started(on_failure=lambda: failures.append("told"))
    await until(lambda: failures)
    await within(instance.stop_current())

    assert isinstance(running.failure, ExceptionGroup)


async def test_a_stopped_instance_leaves_nothing_behind(redis_server, loaded):
    before = asyncio.all_tasks()
    running = await instance.ensure_started()
    await until(lambda: running.hears_control)

    await within(instance.stop_current())

    assert instance.current() is None
    assert asyncio.all_tasks() <= before
    assert running.layer.receivers == {}
    await instance.stop_current()


async def test_a_new_namespace_holds_at_once(started, loaded):
    client = await Client().open()
    await client.connect(token())
    with pytest.raises(CommandError, match="102"):
        await client.call("subscribe", channel="new:a")

    loaded(Snapshot(2, {**NAMESPACES, "new": ChannelOptions(allow_subscribe_for_client=True)}))
    await until(lambda: started.snapshot.version == 2)

    assert await client.call("subscribe", channel="new:a") == {}
    await client.leave()


async def test_the_last_snapshot_stands_while_the_database_is_away(started, loaded, caplog):
    loaded(OperationalError("gone"))
    await until(lambda: "gone" in caplog.text)

    assert started.snapshot is SNAPSHOT
    await asyncio.sleep(0.1)
    assert caplog.text.count("cannot be read: gone") == 1

    loaded(Snapshot(3, NAMESPACES))
    await until(lambda: started.snapshot.version == 3)


@pytest.fixture
def warnings(caplog):
    """Return a way to count the warnings of a missing namespace of personal channels."""
    return lambda: caplog.text.count("the namespace 'users' of personal channels does not exist")


async def test_a_missing_namespace_of_personal_channels_is_told_once(
    redis_server, loaded, configure, warnings
):
    configure(PERSONAL_CHANNELS=True, PERSONAL_CHANNEL_NAMESPACE="users")
    running = await instance.ensure_started()
    await until(lambda: running.snapshot is not None)
    for version in (2, 3):  # other changes, and many polls without one
        loaded(Snapshot(version, NAMESPACES))
        await until(lambda version=version: running.snapshot.version == version)
    await asyncio.sleep(0.1)
    assert warnings() == 1

    loaded(Snapshot(4, {**NAMESPACES, "users": ChannelOptions()}))
    await until(lambda: running.snapshot.version == 4)
    assert warnings() == 1

    loaded(Snapshot(5, NAMESPACES))
    await until(lambda: running.snapshot.version == 5)
    assert warnings() == 2
    await instance.stop_current()


@pytest.mark.parametrize(
    "values",
    [
        {"PERSONAL_CHANNELS": False, "PERSONAL_CHANNEL_NAMESPACE": "users"},
        {"PERSONAL_CHANNELS": True, "PERSONAL_CHANNEL_NAMESPACE": ""},
        {"PERSONAL_CHANNELS": True, "PERSONAL_CHANNEL_NAMESPACE": "open"},
    ],
)
async def test_personal_channels_that_work_or_are_off_are_nothing_to_tell(
    redis_server, loaded, configure, caplog, values
):
    configure(**values)
    running = await instance.ensure_started()
    await until(lambda: running.snapshot is not None)

    assert "personal channels" not in caplog.text
    await instance.stop_current()


async def test_without_a_first_answer_of_the_database_the_instance_is_not_ready(
    redis_server, loaded
):
    loaded(OperationalError("never there"))
    running = await instance.ensure_started()
    await asyncio.sleep(0.1)

    assert running.snapshot is None
    loaded(SNAPSHOT)
    await until(lambda: running.snapshot is SNAPSHOT)
    await instance.stop_current()


@pytest.mark.django_db(transaction=True)
async def test_every_check_of_readiness_is_explained(started):
    rows = document("docs/how-to/run-several-instances.md").table("What is ready")

    assert {code(cell)[0] for cell, _ in rows} == (await services.areadiness()).keys()


async def test_an_instance_answers_surveys_and_leaves_the_list_at_its_end(started):
    nodes, missing = await services.ainfo()
    assert [node.uid for node in nodes] == [started.uid]
    assert missing == []

    await instance.stop_current()

    assert await services.ainfo() == ([], [])


async def test_a_loop_that_fails_is_reported_and_ends_the_instance(
    redis_server, loaded, monkeypatch, caplog
):
    failed = asyncio.Event()

    async def fail(self):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Instance, "_check_positions", fail)
    running = await instance.ensure_started(on_failure=failed.set)

    await within(failed.wait())

    assert running.failure is not None
    assert "the instance has failed" in caplog.text
    await instance.stop_current()


async def test_a_task_that_fails_is_logged_and_ends_nothing(started, caplog):
    async def fail():
        raise RuntimeError("a bug")

    started.tasks.spawn(fail(), "a task")

    await until(lambda: "task a task failed" in caplog.text)
    assert started.failure is None


async def test_one_broken_socket_does_not_end_the_instance(started, configure):
    writer = RecordingWriter()
    session = Session(started, Outbox(writer, limit_bytes=1000))
    writer.write_frame = writer.close = writer.queued_bytes = fail

    started.connections.call_at(started.loop.time(), session)
    await until(lambda: session.outbox.closed_with is not None)
    await asyncio.sleep(0.15)

    assert started.failure is None
    await session.end()


def fail(*_):
    raise RuntimeError("a broken socket")


@pytest.mark.rule("connect-not-before-control")
async def test_a_command_sent_while_redis_came_back_reaches_who_connected_before(
    valkey, loaded, settings
):
    # Who may connect while the control stream is not found must not miss what is sent then.
    settings.REALTIME = {**settings.REALTIME, "SNAPSHOT_POLL_SECONDS": 0.02}
    valkey.stop()
    await instance.ensure_started()
    client = await Client().open()
    try:
        await client.send_commands({"id": 1, "connect": {"token": token()}})
        reply = await client.next(lambda message: message.get("id") == 1)
        await asyncio.to_thread(valkey.start)
        servers = SyncRedisServers()
        servers.run(control.send(DisconnectCommand("42", 3503, "force disconnect")))
        servers.close()

        # Either it was let in and is closed now, or it was told to try again later.
        if "connect" in reply:
            assert (await client.closed()).code in (3503, 3001)
        else:
            assert reply["error"]["code"] == 100
    finally:
        await client.leave()
        await instance.stop_current()


async def test_lost_commands_close_everybody(started, configure):
    configure(DRAIN_SECONDS=0.1)
    clients = [await Client().open() for _ in range(5)]
    for number, client in enumerate(clients):
        await client.connect(token(str(number)))

    started._close_everybody()

    assert [(await client.closed()).code for client in clients] == [3001] * 5
    for client in clients:
        await client.leave()


async def test_a_drain_is_spread_and_waits_for_the_ends(started):
    clients = [await Client().open() for _ in range(10)]
    for client in clients:
        await client.connect(token())

    draining = asyncio.create_task(started.drain(seconds=0.2))
    for client in clients:
        await client.closed()
    assert not draining.done()
    for client in clients:
        await client.leave()

    await within(draining)
    assert started.is_draining


async def test_a_drain_does_not_wait_for_ever(started, configure):
    configure(BROKER_TIMEOUT_SECONDS=0.1)
    client = await Client().open()
    await client.connect(token())

    with pytest.raises(TimeoutError):
        await within(started.drain(seconds=0))

    await client.leave()


@pytest.mark.rule("presence-renewed")
async def test_the_tick_renews_presence(started, configure, caplog):
    caplog.set_level(logging.INFO)
    client = await Client().open()
    await client.connect(token())
    await client.call("subscribe", channel="open:a")
    await started.presence.remove("open:a", client.id)
    (session,) = started.connections.find("42")

    for _ in range(300):
        if session in started.connections._renewals.turn():
            started.tasks.spawn(started.walks.renew([session]), "renew")
            break

    async with asyncio.timeout(5):
        while client.id not in await started.presence.members("open:a"):
            await asyncio.sleep(0.01)
    await client.leave()


async def test_a_newer_versions_survey_is_passed_over(started):
    for body in ('{"survey":"x","op":"new"}', "[]", '{"op":1}'):
        act = registry.ask(registry.Question("x", "info"))
        args = (act.args[0], act.args[1], body)
        await started.servers.run(act._replace(args=args))

    nodes, _ = await services.ainfo()

    assert [node.uid for node in nodes] == [started.uid]
