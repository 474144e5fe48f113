"""The page of the events is that of the code and the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def test_the_page_of_the_events_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for name in ("event_page", "test_event"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from event_page import PAGE, page  # type: ignore[import-not-found]

    assert PAGE.read_text() == page(), "run: python tests/callbacks/event_page.py"
