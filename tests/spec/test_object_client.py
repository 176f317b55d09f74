"""How long requests are repeated, and what errors of object stores mean to people."""

from __future__ import annotations

import itertools

import pytest
from obstore import exceptions

from pipeline.errors import InputError, StoreError
from pipeline.storage import _object_client, open_storage
from pipeline.storage._object_client import Client, Service
from tests.cluster.s3_server import READ_KEY, READ_SECRET

EXPIRED = "Generic S3 error: Error performing GET http://h/b/k in 1ms - Server returned non-2xx status code: 400 Bad Request: \
<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>\n\nDebug source: ..."


@pytest.fixture
def client(monkeypatch):
    """A client whose pauses take no time; ``connected`` counts how often it has connected."""
    now = itertools.count()
    monkeypatch.setattr(_object_client.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(_object_client.time, "monotonic", lambda: float(next(now)))
    connected = []
    made = Client("b", Service(lambda bucket, **options: connected.append(bucket) or object(), ("B_",), "keys", "do all"))
    made.connected = connected
    return made


def failing(*errors):
    """An action that raises one error after the other, and then returns."""
    left = list(errors)

    def action(store):
        if left:
            raise left.pop(0)
        return "done"

    return action


def test_an_expired_token_is_read_again(client):
    """Credentials that have worked are read again until they work; real ones that expire need a service that issues them."""
    assert client.request("w", failing()) == "done"
    assert client.request("w", failing(*[exceptions.GenericError(EXPIRED)] * 5)) == "done"
    assert len(client.connected) == 6
    with pytest.raises(StoreError, match=r"no access \(ExpiredToken\).*run again: it resumes"):
        client.request("w", failing(*[exceptions.GenericError(EXPIRED)] * 1000))


def test_what_never_worked_is_the_users_mistake(client):
    """The first answer decides: a wrong key is input, at once; reading does not prove that writing is allowed."""
    denied = exceptions.PermissionDeniedError("status code: 403 Forbidden: <Code>AccessDenied</Code>")
    for writes in (False, True):
        with pytest.raises(InputError, match=r"w: found no access \(AccessDenied\); expected credentials that may do all"):
            client.request("w", failing(denied), writes=writes)
        assert client.request("w", failing()) == "done"


def test_a_cut_connection_is_tried_again_for_a_while(client):
    """A request is repeated for about a minute; then the run can be resumed."""
    cut = exceptions.GenericError("Generic S3 error: HTTP error: error sending request")
    assert client.request("w", failing(cut, cut)) == "done"
    with pytest.raises(StoreError, match="w: no answer from the server.*run again: it resumes"):
        client.request("w", failing(*[cut] * 1000))


def test_what_cannot_pass_is_not_tried_again(client):
    """An answer that says that the request is wrong ends it."""
    wrong = exceptions.GenericError("status code: 400 Bad Request: <Code>Odd</Code><Message>Not so.</Message>")
    with pytest.raises(StoreError, match="w: the server answered 400 Bad Request Not so"):
        client.request("w", failing(wrong, wrong))


@pytest.mark.parametrize("text", ["status code: 400 Bad Request: <Message>Bad {}</Message>", "Error performing GET {} - no answer"])
def test_no_message_shows_a_signature(client, text):
    """Some services answer with the address of the request, which a token of Azure signs."""
    signed = text.format("https://h/c/a?sv=1&sig=hidden")
    with pytest.raises(StoreError, match=r"https://h/c/a\?\.\.\.") as told:
        client.request("w", failing(exceptions.GenericError(signed)))
    assert "hidden" not in str(told.value)


def test_the_users_mistakes_are_named_by_a_real_server(s3, monkeypatch):
    """A missing bucket, a bucket that may only be read, a wrong key: each is input, and the message has no secret."""
    with pytest.raises(InputError, match="s3://no-such-bucket/a: found no bucket 'no-such-bucket'; expected a bucket that exists"):
        open_storage("s3://no-such-bucket/a").make()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READ_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READ_SECRET)
    storage = open_storage(s3)
    assert not storage.exists()
    with pytest.raises(InputError, match=r"no access \(AccessDenied\); expected credentials that may list the bucket, and get, put"):
        storage.make()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    for ask in (storage.exists, storage.make, lambda: storage.get("a"), lambda: storage.size("a")):
        with pytest.raises(InputError, match="no access") as refused:
            ask()
        assert READ_SECRET not in str(refused.value)


def test_plain_http_must_be_allowed(s3, monkeypatch):
    """Nobody sends data without TLS by mistake."""
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(InputError, match="To allow it, set AWS_ALLOW_HTTP=true"):
        open_storage(s3).get("a")
