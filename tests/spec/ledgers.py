"""What the tests of the ledger and of the run lock share: receipts, ledgers that hold some, and a holder that is taken over."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress

import pytest

from pipeline.errors import LockLost
from pipeline.records import Ledger, Receipt


def receipt(number, **options):
    return Receipt("predict", "a", f"a:0.0.{number}", **options)


def blocks(rows):
    return [row.block for row in rows]


def write(folder, *numbers, **options):
    with Ledger.open(folder, **options) as ledger:
        for number in numbers:
            ledger.append(receipt(number))


@contextmanager
def losing(folder):
    """A holder that is taken over before it ends, and is told so."""
    stack = ExitStack()
    ledger = stack.enter_context(Ledger.open(folder))
    try:
        yield ledger
    except BaseException:
        with suppress(LockLost):  # what the test found comes first
            stack.close()
        raise
    with pytest.raises(LockLost, match=str(os.getpid())):
        stack.close()
