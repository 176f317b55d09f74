"""Requests to object stores: connections of this process, how long a request is repeated, and what its errors mean.

Requests are repeated in two places. obstore repeats what a server or a network refuses for a moment: 5xx, cut connections, time
limits. :meth:`Client.request` repeats what obstore does not: writes whose answer was lost, and requests whose credentials have
expired, for which the credentials are read again. Both end after about a minute.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from pipeline.errors import GigasegError, InputError, Problem, StoreError

__all__ = ["Client", "Service", "client_of", "creates_once", "status_of"]

T = TypeVar("T")
RETRY_S = 60.0
FIRST_RETRY_S = 8.0  # before the first answer: the address may be wrong, and a user waits
LONGEST_PAUSE_S = 8.0
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName")
METADATA_SERVERS = ("169.254.169.254", "metadata.google")  # where obstore looks for credentials last
EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "RequestExpired", "RequestTimeTooSkewed")
NOT_IMPLEMENTED = 501
RESUMES = "and run again: it resumes"


@dataclass(frozen=True)
class Service:
    """What differs between services.

    Attributes:
        connect: makes obstore's store of a bucket; takes the name and obstore's option ``retry_config``. Raises PermissionError
            where there are no credentials.
        environment: how the names of environment variables begin that say where the service is, and who asks.
        credentials: where credentials are looked for, for messages.
        permissions: what a run needs, in the words of the service.
    """

    connect: Callable[..., Any]
    environment: tuple[str, ...]
    credentials: str
    permissions: str


class Client:
    """The connections of this process to one bucket."""

    def __init__(self, bucket: str, service: Service) -> None:
        self.bucket, self._service = bucket, service
        self.answered: set[bool] = set()  # whether reading (False) and writing (True) have succeeded
        self.creates_once: bool | None = None  # None: not tried yet
        self.writable: set[str] = set()  # prefixes below which this process has written and deleted a file
        self._store: Any = None
        self._connecting = threading.Lock()

    @property
    def store(self) -> Any:
        """The whole bucket, as obstore's store."""
        with self._connecting:
            if self._store is None:
                backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2}
                retries = {"max_retries": 6, "retry_timeout": timedelta(seconds=FIRST_RETRY_S), "backoff": backoff}
                self._store = self._service.connect(self.bucket, retry_config=retries)
            return self._store

    def request(self, where: str, action: Callable[[Any], T], *, writes: bool = False) -> T:
        """Return what ``action`` returns for obstore's store; it is repeated as long as that can help.

        Args:
            where: URL of the file, for messages.
            action: makes requests; repeatable.
            writes: whether it changes anything.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: no request of this kind has succeeded, and the bucket's name or the credentials are wrong.
            StoreError: any other failure.
        """
        from obstore.exceptions import BaseError

        begun, pause_s = time.monotonic(), 0.2
        while True:
            try:
                result = action(self.store)
            except (BaseError, OSError, ValueError) as error:
                if isinstance(error, FileNotFoundError) and not writes and _code(error) not in NO_BUCKET:
                    self.answered.add(writes)
                    raise
                limit_s = RETRY_S if writes in self.answered else FIRST_RETRY_S
                if time.monotonic() + pause_s > begun + limit_s or not self._may_pass(error, writes):
                    raise self._explained(where, error, writes) from None  # obstore's own text is long
                if _is_about_access(error):
                    self._store = None  # credentials are read again
            else:
                self.answered.add(writes)
                return result
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _may_pass(self, error: BaseException, writes: bool) -> bool:
        """Whether the same request may succeed later; credentials that have worked may be renewed by another program."""
        if _is_about_access(error):
            return writes in self.answered
        status = status_of(error)
        return _is_about_network(error) if status is None else status in (408, 429) or (status >= 500 and status != NOT_IMPLEMENTED)

    def _explained(self, where: str, error: BaseException, writes: bool) -> GigasegError:
        """The error for people, in one line: where, what, and what to do."""
        from obstore.exceptions import NotSupportedError, PreconditionError

        code = _code(error)
        if code in NO_BUCKET or isinstance(error, FileNotFoundError):
            problem = Problem(where, f"no bucket {self.bucket!r}", "a bucket that exists", "Create it, or correct its name.")
        elif isinstance(error, PermissionError) or any(server in str(error) for server in METADATA_SERVERS):
            problem = Problem(where, "no credentials", self._service.credentials, "Set them where this process starts.")
        elif _is_about_access(error):
            way_out = "Correct the credentials in the environment, or the bucket's policy."
            problem = Problem(where, f"no access ({code or 'forbidden'})", f"credentials that may {self._service.permissions}", way_out)
        elif "builder error" in str(error):
            problem = Problem(where, "an address that begins with http://", "https://", "To allow it, set AWS_ALLOW_HTTP=true.")
        elif isinstance(error, NotSupportedError) and "Range" in str(error):
            found, way_out = "a server that sends whole files only", "Copy the file to a disk or a bucket."
            return InputError(Problem(where, found, "one that sends parts", way_out))
        elif isinstance(error, PreconditionError):
            return StoreError(f"{where}: the file has changed while it was read")
        else:
            return StoreError(f"{where}: {_first_line(error)}; see to the network and the store, {RESUMES}")
        return StoreError(f"{problem} Then run again: it resumes.") if writes in self.answered else InputError(problem)


_clients: dict[tuple[Any, ...], Client] = {}
_clients_lock = threading.Lock()


def client_of(bucket: str, service: Service) -> Client:
    """Return the client of this process for a bucket; another one where the environment has changed."""
    asked = sorted(item for item in os.environ.items() if item[0].upper().startswith(service.environment))
    key = (bucket, service.connect, os.getpid(), *asked)
    with _clients_lock:
        if key not in _clients:
            _clients[key] = Client(bucket, service)
        return _clients[key]


def _is_about_access(error: BaseException) -> bool:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
        return True
    status, code = status_of(error), _code(error)
    # A server gives no reason where it is asked for facts alone, and an expired token is 400 at Amazon.
    return status in (401, 403) or code in ("AccessDenied", *EXPIRED) or (status == 400 and not code and "HEAD" in str(error))


def _is_about_network(error: BaseException) -> bool:
    """Whether a request got no whole answer."""
    text = str(error)
    return ("HTTP error" in text or "error decoding response body" in text or "timed out" in text) and "builder error" not in text


def creates_once(store: Any, name: str) -> bool:
    """Return whether obstore's store refuses to create a file that exists, by creating one twice."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, GenericError, NotSupportedError

    try:
        for _ in range(2):
            obstore.put(store, name, b"", mode="create", use_multipart=False)
    except AlreadyExistsError:
        return True
    except (NotSupportedError, NotImplementedError):  # obstore raises one or the other where a service has no conditional writes
        return False
    except GenericError as error:
        if status_of(error) != NOT_IMPLEMENTED:
            raise
    return False


def status_of(error: BaseException) -> int | None:
    """Return the status of the server's answer; None where there was none."""
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _code(error: BaseException) -> str:
    """The service's own name of an error, such as NoSuchBucket; empty where it gave none."""
    found = re.search(r"<Code>(\w+)</Code>|\(code: (\w+)\)", str(error))
    return (found[1] or found[2]) if found else ""


def _first_line(error: BaseException) -> str:
    """What happened, without the request and the values inside obstore."""
    text = re.sub(r"\?[^\s<]+", "?...", str(error).partition("Debug source")[0])  # the query of a URL may hold a signature
    answer = re.search(r"status code: (\d{3} [^:]*)", text)
    if answer:
        message = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
        return " ".join(f"the server answered {answer[1].strip()} {message[1] if message else ''}".split())
    if _is_about_network(error):
        return "no answer from the server, in spite of several tries"
    return " ".join(text.split())[:300]
