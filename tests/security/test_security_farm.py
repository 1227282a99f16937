"""A real farm with tokens and TLS: what each role can do, and what a stranger cannot."""

import hashlib
import socket
import ssl
import stat
import threading
from pathlib import Path

import grpc
import pytest
from secure_farm import SecureFarm, tunefarm, until
from tunefarm import Tracker, request_device, session
from tunefarm.accounts import Accounts
from tunefarm_compiler.foreign import build_c
from tunefarm_proto import errors, rpc, security
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import account_pb2 as apb
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_proto.v1 import tracker_pb2_grpc as tpb_grpc

AWAY = errors.TrackerUnreachableError("away")


def methods(*files):
    return [
        (f"/{service.full_name}/{method.name}", method)
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def call(channel, path, method):
    """Make a call with an empty message; gives the error that ended it, or None after an answer."""
    kind = f"{'stream' if method.client_streaming else 'unary'}_" + (
        "stream" if method.server_streaming else "unary"
    )
    request = iter([b""]) if method.client_streaming else b""
    try:
        answer = getattr(channel, kind)(path)(request, metadata=rpc.call_metadata(), timeout=10)
        if method.server_streaming:
            next(answer)
            answer.cancel()
    except grpc.RpcError as error:
        return rpc.error_of_call(error, AWAY)
    except StopIteration:
        pass
    return None


@pytest.mark.parametrize(("path", "method"), methods(tpb, apb))
def test_a_stranger_gets_one_line_from_every_method_of_the_tracker(
    secure: SecureFarm, path, method
):
    with security.tracker_channel(secure.address, secure.credentials()) as channel:
        error = call(channel, path, method)
    assert isinstance(error, errors.UnauthenticatedError), error
    assert "carries none" in str(error) and "--token-file" in str(error)
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(("path", "method"), methods(dpb))
def test_a_stranger_gets_one_line_from_every_method_of_a_device(secure: SecureFarm, path, method):
    with security.device_channel(secure.devices[0], secure.credentials()) as channel:
        error = call(channel, path, method)
    assert isinstance(error, errors.LeaseRefusedError), error
    assert "lease" in str(error) and len(str(error).splitlines()) == 1


@pytest.mark.parametrize("token", ["tf_guessed", "tf_" + "A" * 43])
def test_a_guessed_token_is_unknown(secure: SecureFarm, token: str):
    with pytest.raises(errors.UnauthenticatedError, match="does not know this token"):
        request_device("safe", tracker=secure.address, credentials=Credentials(token, secure.ca))


def test_a_viewer_sees_and_does_nothing(secure: SecureFarm):
    with secure.tracker("viewer") as tracker:
        assert [device.key for device in tracker.devices()] == ["safe"]
        assert tracker.queue() == [] and tracker.results() is not None
        next(tracker.watch())
        with pytest.raises(errors.PermissionDeniedError, match=r"RecordResult .* role user"):
            tracker.record(tpb.Result(id="x", workload="w"))
        with pytest.raises(errors.PermissionDeniedError, match=r"ListTokens .* role operator"):
            Accounts(tracker).tokens()
    with pytest.raises(errors.PermissionDeniedError, match=r"RequestDevice .* role user"):
        request_device("safe", tracker=secure.address, credentials=secure.credentials("viewer"))


def test_a_device_token_lists_and_requests_nothing(secure: SecureFarm):
    with secure.tracker("device") as tracker:
        with pytest.raises(errors.PermissionDeniedError, match=r"ListDevices .* role viewer"):
            tracker.devices()
        with pytest.raises(errors.PermissionDeniedError):
            tracker.cancel("anything")


def test_a_user_measures_over_tls_and_manages_nothing(secure: SecureFarm):
    done = tunefarm("bench", "add:n=64", "--device", "safe", env=secure.environment("user"))
    assert done.returncode == 0, done.stderr
    for words in (["token", "list"], ["token", "create", "eve", "--role", "operator"], ["audit"]):
        done = tunefarm(*words, env=secure.environment("user"))
        assert done.returncode == 5 and "role operator" in done.stderr
        assert done.stdout == ""


def test_the_token_never_goes_to_a_device(secure: SecureFarm, monkeypatch):
    seen = []
    plain = security.SyncBearer._carry
    monkeypatch.setattr(
        security.SyncBearer,
        "intercept_unary_unary",
        lambda self, go_on, details, request: (
            seen.append(details.method),
            plain(self, go_on, details, request),
        )[1],
    )
    with request_device(
        "safe", tracker=secure.address, credentials=secure.credentials("user"), timeout=20
    ) as device:
        device.upload(b"x", hashlib.sha256(b"x").hexdigest())
    assert seen and not any("DeviceService" in str(method) for method in seen)


def test_calls_take_a_lane_that_speaks_tls(secure: SecureFarm, tmp_path: Path, monkeypatch):
    lanes = []
    connect = session.Lane

    def kept(*words):
        lanes.append(connect(*words))
        return lanes[-1]

    monkeypatch.setattr(session, "Lane", kept)
    with request_device(
        "safe", tracker=secure.address, credentials=secure.credentials("user"), timeout=20
    ) as device:
        with device.pipeline():
            pass
        device.files.upload(bytes(3 << 20), "data")
        assert device.files.download("data") == bytes(3 << 20)
        (lane,) = lanes
        assert isinstance(lane._socket, ssl.SSLSocket) and lane._socket.version() == "TLSv1.3"
        lane_port = lane._socket.getpeername()[1]
        with socket.create_connection(("127.0.0.1", lane_port), 10) as plain:
            plain.sendall(bytes(32))
            try:
                said = plain.recv(100)
            except ConnectionResetError:
                said = b""
            assert said != b"\x01"


def test_revoking_ends_calls_at_once_and_streams_soon(secure: SecureFarm):
    with secure.tracker("operator") as operator:
        accounts = Accounts(operator)
        token, secret = accounts.create("shortlived", apb.ROLE_USER)
        mine = Credentials(secret, secure.ca)
        device = request_device("safe", tracker=secure.address, credentials=mine, timeout=20)
        lost = threading.Event()
        device._holder.when_lost(lost.set)
        assert [one.id for one in accounts.revoke(name="shortlived")] == [token.id]
        with pytest.raises(errors.UnauthenticatedError, match="shortlived was revoked"):
            request_device("safe", tracker=secure.address, credentials=mine)
        assert lost.wait(5)
        assert isinstance(device._holder.error, errors.UnauthenticatedError)
        device.close()
        assert accounts.revoke(token_id=token.id) == []
        until(lambda: operator.leases() == [])


def test_the_command_line_makes_and_revokes_tokens(secure: SecureFarm, tmp_path: Path):
    env = secure.environment("operator")
    out = tmp_path / "carol.token"
    made = tunefarm("token", "create", "carol", "--role", "viewer", "--out", str(out), env=env)
    assert made.returncode == 0 and made.stdout == ""
    secret = out.read_text().strip()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert secret.startswith("tf_") and secret not in made.stderr
    carol = {**secure.environment(), "TUNEFARM_TOKEN_FILE": str(out)}
    assert tunefarm("status", env=carol).returncode == 0
    again = tunefarm("token", "create", "carol", "--role", "viewer", "--out", str(out), env=env)
    assert again.returncode == 2 and "exists already" in again.stderr
    # The other way: straight on the file, while the tracker runs.
    state = ["--state", str(secure.folder / "tracker")]
    listed = tunefarm("token", "list", *state)
    assert "carol" in listed.stdout and secret not in listed.stdout
    assert tunefarm("token", "revoke", "carol", *state).returncode == 0
    refused = tunefarm("status", env=carol)
    assert refused.returncode == 5 and "carol was revoked" in refused.stderr
    shown = tunefarm("token", "create", "dave", "--role", "viewer", *state)
    (tmp_path / "dave").write_text(shown.stdout)
    words = ["--token-file", str(tmp_path / "dave")]
    assert tunefarm("status", *words, env=secure.environment()).returncode == 0


def test_the_audit_log_names_who_did_what_and_who_was_refused(secure: SecureFarm):
    with secure.tracker("viewer") as tracker, pytest.raises(errors.PermissionDeniedError):
        tracker.cancel("x")
    with secure.tracker("operator") as tracker:
        Accounts(tracker).create("audited", apb.ROLE_VIEWER)
        Accounts(tracker).revoke(name="audited")
        found = []

        def logged() -> bool:
            found[:] = Accounts(tracker).audit(newest=True, limit=50)
            return any(one.action == "CancelRequest" for one in found)

        until(logged)
    lines = [(one.who, one.role, one.action, one.outcome.split(":")[0]) for one in found]
    assert ("viewer", "viewer", "CancelRequest", "refused") in lines
    assert ("operator", "operator", "create token", "done") in lines
    assert ("operator", "operator", "revoke token", "done") in lines
    shown = tunefarm("audit", "--limit", "50", env=secure.environment("operator"))
    assert shown.returncode == 0 and "CancelRequest" in shown.stdout


def test_cancelling_somebody_elses_request_is_in_the_audit_log(secure: SecureFarm):
    user = {"tracker": secure.address, "credentials": secure.credentials("user"), "timeout": 30}
    ended = []

    def wait() -> None:
        with pytest.raises(errors.RequestCancelledError):
            request_device("nosuch", wait_for_key=True, **user)
        ended.append(True)

    with secure.tracker("operator") as tracker:
        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: len(tracker.queue("nosuch")) == 1)
        name = tracker.queue("nosuch")[0].request.request_id
        assert tracker.cancel(name)
        waiting.join(10)
        logged = ("operator", "cancel", f"{name} of user", "done")

        def found() -> bool:
            entries = Accounts(tracker).audit(newest=True, limit=50)
            return logged in [(one.who, one.action, one.subject, one.outcome) for one in entries]

        until(found)
    assert ended


def test_no_secret_in_ps_in_logs_or_on_the_trackers_disk(secure: SecureFarm):
    secrets = [secret.encode() for secret in secure.secrets.values()]
    commands = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands += path.read_bytes()
        except OSError:
            continue  # it ended meanwhile
    logs = b"".join(path.read_bytes() for path in secure.folder.glob("*.log"))
    state = [path for path in (secure.folder / "tracker").iterdir() if path.is_file()]
    kept = b"".join(path.read_bytes() for path in state)
    assert b"tunefarm" in commands and b"listens" in logs and b"operator" in kept
    for secret in secrets:
        assert secret not in commands and secret not in logs and secret not in kept
    for path in state:
        if path.name.startswith("accounts"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_users_request_is_not_continued_by_another(secure: SecureFarm):
    with secure.tracker("operator") as operator:
        _, secret = Accounts(operator).create("mallory", apb.ROLE_USER)
    with request_device(
        "safe", tracker=secure.address, credentials=secure.credentials("user"), timeout=20
    ) as device:
        theirs = tpb.DeviceRequest(
            request_id=device._holder._wish.request_id, needs=[tpb.DeviceNeed(keys=["safe"])]
        )
        opened = iter([tpb.RequestDeviceRequest(open=theirs)])
        with Tracker(secure.address, Credentials(secret, secure.ca)) as mallory:
            answer = mallory.stub.RequestDevice(opened, metadata=rpc.call_metadata(), timeout=10)
            refused = errors.from_proto(next(answer).ended.error)
            assert isinstance(refused, errors.PermissionDeniedError)
            assert "of another user" in str(refused)


PRINTS = """
extern long write(int, const void *, unsigned long);
int speak(void *const *args) { write(1, "a secret of ours\\n", 17); return 0; }
"""


def test_what_a_kernel_prints_is_its_holders(secure: SecureFarm, tmp_path: Path):
    source = tmp_path / "speak.c"
    source.write_text(PRINTS)
    with request_device(
        "safe", tracker=secure.address, credentials=secure.credentials("user"), timeout=20
    ) as device:
        module = device.load(build_c(source, "local", "x:out:float32[16]"))
        module["speak"](device.empty(16))
        lease_id = device.lease.id
    with secure.tracker("operator") as tracker:
        _, secret = Accounts(tracker).create("eve", apb.ROLE_USER)

    def seen(credentials: Credentials) -> list[str]:
        with Tracker(secure.address, credentials) as tracker:
            answer = tpb_grpc.TrackerServiceStub(tracker.channel).ListPastLeases(
                tpb.ListPastLeasesRequest(), metadata=rpc.call_metadata()
            )
        return [past.output for past in answer.leases if past.lease.id == lease_id]

    until(lambda: seen(secure.credentials("operator")) == ["a secret of ours"])
    assert seen(secure.credentials("user")) == ["a secret of ours"]
    assert seen(secure.credentials("viewer")) == [""]
    assert seen(Credentials(secret, secure.ca)) == [""]
