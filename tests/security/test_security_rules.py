"""Rules of tokens, roles and limits, without processes."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import grpc
import pytest
from tunefarm_proto import errors, rpc, security, serving
from tunefarm_proto.identity import ANONYMOUS, Identity, Role
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import account_pb2 as apb
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import common_pb2_grpc as pb_grpc
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc
from tunefarm_tracker.access import BURST, REFILL_S, ROLE_NEEDED, Authorizer, check_role
from tunefarm_tracker.accounts import Accounts
from tunefarm_tracker.server import start

VIEWER = {
    "ListPastLeases",
    "ListEvents",
    "ListDevices",
    "ListQueue",
    "ListLeases",
    "ListResults",
    "ListUsers",
    "WatchEvents",
    "ListTunings",
    "WatchTunings",
}
USER = VIEWER | {
    "RequestDevice",
    "RequestDevices",
    "RenewLease",
    "ReleaseLease",
    "CancelRequest",
    "ChangePriority",
    "RecordResult",
    "ReportTuning",
}
ALLOWED = {Role.VIEWER: VIEWER, Role.USER: USER, Role.DEVICE: {"Synchronize"}}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(tmp_path: Path, clock: Clock):
    made = Accounts(tmp_path / "state", clock)
    yield made
    made.close()


def bearing(secret: str) -> rpc.Metadata:
    return (("authorization", f"Bearer {secret}"),)


@pytest.mark.parametrize("role", list(Role))
def test_each_role_may_do_what_the_table_says_and_nothing_else(role: Role):
    identity = Identity("x", role, "id")
    services = [
        *tpb.DESCRIPTOR.services_by_name.values(),
        *apb.DESCRIPTOR.services_by_name.values(),
    ]
    for service in services:
        for method in service.methods:
            allowed = role is Role.OPERATOR or (
                service.name == "TrackerService" and method.name in ALLOWED[role]
            )
            allowed = allowed or method.name == "GetIdentity"
            try:
                check_role(identity, f"{service.name}/{method.name}")
            except errors.PermissionDeniedError as error:
                assert not allowed, error
                assert role.value in str(error) and len(str(error).splitlines()) == 1
            else:
                assert allowed, f"{role} may call {method.name}"
    check_role(identity, "HelloService/Hello")


def test_the_table_names_only_methods_that_exist_and_new_ones_need_an_operator():
    there = {
        f"TrackerService/{m.name}"
        for m in tpb.DESCRIPTOR.services_by_name["TrackerService"].methods
    }
    assert set(ROLE_NEEDED) <= there
    with pytest.raises(errors.PermissionDeniedError, match="operator"):
        check_role(Identity("x", Role.USER), "TrackerService/AddedTomorrow")


def test_tokens_are_wanted_from_the_first_one_on_and_after_the_last(accounts: Accounts):
    authorizer = Authorizer(accounts)
    assert authorizer("/tunefarm.v1.TrackerService/SetQuota", (), "peer") is ANONYMOUS
    with pytest.raises(errors.InvalidRequestError, match="first token must be an operator's"):
        accounts.create("bob", Role.USER)
    token, secret = accounts.create("op", Role.OPERATOR).result()
    found = authorizer("/tunefarm.v1.TrackerService/SetQuota", bearing(secret), "peer")
    assert found == Identity("op", Role.OPERATOR, token.id)
    accounts.revoke(name="op").result()
    for metadata, why in (((), "carries none"), (bearing(secret), "op was revoked")):
        with pytest.raises(errors.UnauthenticatedError, match=why):
            authorizer("/tunefarm.v1.TrackerService/ListDevices", metadata, "peer")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic tf_x", "tf_x", "Bearer  "])
def test_a_header_without_a_token_is_no_token(accounts: Accounts, header: str):
    authorizer = Authorizer(accounts, required=True)
    with pytest.raises(errors.UnauthenticatedError, match="carries none"):
        authorizer("/x.TrackerService/ListDevices", (("authorization", header),), "peer")


def test_a_token_ends_when_it_expires(accounts: Accounts, clock: Clock):
    _, secret = accounts.create("op", Role.OPERATOR, clock.now + 60).result()
    identity = accounts.identity_of(secret)
    clock.now += 61
    with pytest.raises(errors.UnauthenticatedError, match="op has expired"):
        accounts.identity_of(secret)
    assert "op has expired" in str(accounts.ended([identity])[identity])
    with pytest.raises(errors.InvalidRequestError, match="expired already"):
        accounts.create("op", Role.OPERATOR, clock.now)


@pytest.mark.parametrize("name", ["", " ", "a b", "-x", "x" * 65, "x\ny", "ü"])
def test_names_are_plain_words(accounts: Accounts, name: str):
    with pytest.raises(errors.InvalidRequestError, match="cannot be a token's name"):
        accounts.create(name, Role.OPERATOR)


def test_one_process_hears_at_once_what_another_changed(accounts: Accounts, tmp_path: Path):
    other = Accounts(tmp_path / "state")
    token, secret = other.create("op", Role.OPERATOR).result()
    assert accounts.identity_of(secret).token_id == token.id
    other.revoke(token_id=token.id).result()
    with pytest.raises(errors.UnauthenticatedError):
        accounts.identity_of(secret)
    other.close()


def test_only_hashes_are_kept_and_the_log_cannot_be_rewritten(accounts: Accounts, tmp_path: Path):
    _, secret = accounts.create("op", Role.OPERATOR).result()
    accounts.audit(Identity("op", Role.OPERATOR), "drain device", "board-1", "too hot").result()
    for path in (tmp_path / "state").iterdir():
        assert secret.encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    raw = sqlite3.connect(tmp_path / "state" / "accounts.sqlite")
    for sql in ("DELETE FROM audit", "UPDATE audit SET who = 'eve'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(sql)
    raw.close()
    last = accounts.audit_entries(0, 10)[-1]
    assert (last.who, last.action, last.outcome) == ("op", "drain device", "done: too hot")


def test_the_log_has_what_was_done_before_it_is_read(accounts: Accounts):
    slow, op = threading.Event(), Identity("op", Role.OPERATOR)
    accounts._writer.submit(slow.wait, 10)
    accounts.audit(op, "forget device", "board-1")
    threading.Timer(0.05, slow.set).start()
    assert accounts.audit_entries(0, 10)[-1].action == "forget device"


def test_a_flood_of_refusals_is_logged_in_part_and_counted(accounts: Accounts, clock: Clock):
    authorizer = Authorizer(accounts, required=True, clock=clock)

    def knock() -> None:
        with pytest.raises(errors.UnauthenticatedError):
            authorizer("/tunefarm.v1.TrackerService/ListDevices", (), "ipv4:10.0.0.9:1\n\x00")

    for _ in range(BURST + 1000):
        knock()
    clock.now += REFILL_S
    knock()
    accounts.close()
    kept = sqlite3.connect(accounts._path).execute("SELECT subject, outcome FROM audit").fetchall()
    assert len(kept) == BURST + 1
    assert "1000 refusals before this one are not logged" in kept[-1][1]
    assert kept[0][0] == "10.0.0.9:1??"


def test_a_refusal_tells_what_was_meant_and_by_whom(accounts: Accounts):
    accounts.create("op", Role.OPERATOR).result()
    _, user = accounts.create("ann", Role.USER).result()
    authorizer = Authorizer(accounts)
    method, peer = "/tunefarm.v1.TrackerService/ManageDevice", "ipv6:%5B::1%5D:35026"
    with pytest.raises(errors.PermissionDeniedError):
        authorizer(method, bearing(user), peer, "rasp4b-0d11e5")
    accounts.audit(Identity("op", Role.OPERATOR), "last", "").result()
    refused = accounts.audit_entries(0, 10)[-2]
    assert refused.subject == "rasp4b-0d11e5 from [::1]:35026"
    for request, meant in (
        (tpb.ManageDeviceRequest(device_id="d1"), "d1"),
        (tpb.RevokeLeaseRequest(lease_id="l" * 999), "l" * serving.MOST_NAMED),
        (tpb.ListQueueRequest(), ""),
        (None, ""),
    ):
        assert serving._meant(request) == meant


def test_credentials_show_no_secret_and_send_none_in_plaintext():
    mine = Credentials("tf_secret")
    assert "secret" not in repr(mine) and "secret" not in str(mine)
    for host in ("127.0.0.1", "localhost", "[::1]", "127.9.9.9"):
        mine.check_tracker(f"{host}:9190")
    for host in ("10.0.0.1", "tracker.lab", "0.0.0.0", "[::]", "localhost.evil.org"):
        with pytest.raises(errors.InvalidRequestError, match="in plaintext") as error:
            security.tracker_channel(f"{host}:9190", mine)
        assert "TUNEFARM_INSECURE=1" in str(error.value)
    Credentials("tf_secret", insecure=True).check_tracker("tracker.lab:9190")
    Credentials().check_tracker("tracker.lab:9190")


def test_the_environment_gives_credentials(tmp_path: Path):
    (tmp_path / "t").write_text("tf_from-file\n")
    file = {"TUNEFARM_TOKEN_FILE": str(tmp_path / "t"), "TUNEFARM_TOKEN": "tf_other"}
    assert Credentials.from_environment(file).token == "tf_from-file"
    assert Credentials.from_environment({"TUNEFARM_TOKEN": "tf_x"}).token == "tf_x"
    assert Credentials.from_environment({}) == Credentials()
    assert Credentials.from_environment({"TUNEFARM_INSECURE": "1"}).insecure
    with pytest.raises(errors.InvalidRequestError, match="come together"):
        Credentials(ca=b"x", cert=b"x")


def test_handlers_know_who_calls_and_too_many_calls_are_refused():
    class Service(tpb_grpc.TrackerServiceServicer):
        async def WatchEvents(self, request, context):  # noqa: N802
            yield tpb.WatchEventsResponse(detail=serving.current_identity().name)
            await asyncio.Event().wait()

    async def main() -> None:
        guard = serving.Guard(lambda *_: Identity("bob", Role.USER, "1"), maximum_calls=2)
        server = serving.new_server(guard)
        tpb_grpc.add_TrackerServiceServicer_to_server(Service(), server)
        address = f"127.0.0.1:{serving.bind(server, '127.0.0.1', 0)}"
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = tpb_grpc.TrackerServiceStub(channel)

            def watch():
                return stub.WatchEvents(tpb.WatchEventsRequest(), metadata=rpc.call_metadata())

            calls = [watch(), watch()]
            assert [(await call.read()).detail for call in calls] == ["bob", "bob"]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await watch().read()
            named = rpc.error_of_call(refused.value, errors.TrackerUnreachableError("away"))
            assert isinstance(named, errors.OverloadedError) and "try again" in str(named)
            guard.cut(Identity("bob", Role.USER, "1"), errors.UnauthenticatedError("revoked"))
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as cut:
                    await call.read()
                assert cut.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert guard.identities() == set()
        await server.stop(0)

    asyncio.run(main())


def test_streams_end_when_a_token_ends_otherwise_and_when_tokens_come_into_use(tmp_path: Path):
    async def main() -> None:
        running = await start(port=0, state_dir=tmp_path / "state")
        address = f"127.0.0.1:{running.port}"
        async with grpc.aio.insecure_channel(address) as channel:
            call = tpb_grpc.TrackerServiceStub(channel).WatchEvents(
                tpb.WatchEventsRequest(), metadata=rpc.call_metadata()
            )
            await call.read()
            other = Accounts(tmp_path / "state")
            token, secret = await asyncio.wrap_future(other.create("op", Role.OPERATOR))
            with pytest.raises(grpc.aio.AioRpcError) as cut:
                await asyncio.wait_for(call.read(), 10)
            assert "wants a token" in cut.value.details()
        async with security.aio_tracker_channel(address, Credentials(secret)) as channel:
            call = tpb_grpc.TrackerServiceStub(channel).WatchEvents(
                tpb.WatchEventsRequest(), metadata=rpc.call_metadata()
            )
            await call.read()
            await asyncio.wrap_future(other.revoke(token_id=token.id))
            with pytest.raises(grpc.aio.AioRpcError) as cut:
                await asyncio.wait_for(call.read(), 10)
            assert "was revoked" in cut.value.details()
        await asyncio.to_thread(other.close)
        await running.stop()

    asyncio.run(main())


def test_a_message_larger_than_the_tracker_takes_gets_one_line(tmp_path: Path):
    async def main() -> None:
        running = await start(port=0, state_dir=tmp_path / "state")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
            big = pb.Peer(component="x" * (rpc.TRACKER_MESSAGE_BYTES + 1))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await pb_grpc.HelloServiceStub(channel).Hello(
                    pb.HelloRequest(peer=big), metadata=rpc.call_metadata()
                )
        named = rpc.error_of_call(refused.value, errors.TrackerUnreachableError("away"))
        assert isinstance(named, errors.InvalidRequestError)
        await running.stop()

    asyncio.run(main())
