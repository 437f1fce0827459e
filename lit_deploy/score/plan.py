"""What a folder of results is of, so that no run goes on with another model, other sources or other options."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lit_deploy.core.errors import UsageError
from lit_deploy.core.journal import Journal, Key, Kind, open_journal
from lit_deploy.core.text import shown_path
from lit_deploy.score.job import Job
from lit_deploy.score.model import Model

FORMAT = "lit-deploy score 1"
"""What a plan is, and the version of its layout and of the rows."""

PLAN = "plan.jsonl"

_KIND = Kind("plan", "scoring", "score", "give another --out")


class Plan:
    """The plan of a folder, which is this process's alone while it is open.

    Attributes:
        key: what decides rows beside the pictures and the session.
        session: what ran or runs it, ``Session.description``; None where nobody has begun.
    """

    def __init__(self, journal: Journal, key: Key, path: Path) -> None:
        self._journal, self._path, self.key = journal, path, key.line()
        told = [line for _, line in journal.lines()]
        try:
            self.session = msgspec.json.decode(told[0], type=str) if told else None
        except (msgspec.MsgspecError, UnicodeError):
            raise UsageError(f"line 2 of the plan {path} is damaged; delete the file to begin again") from None

    def begin(self, session: str) -> None:
        """Note the session, or raise UsageError where it is not that of an earlier run."""
        if self.session is None:
            self._journal.append(msgspec.json.encode(session))
            self.session = session
        elif self.session != session:
            raise UsageError(
                f"the plan {self._path} belongs to another scoring, by {self.session}, where this is {session}; give "
                "another --out, or delete it to begin again"
            )


@contextlib.contextmanager
def open_plan(folder: Path, job: Job, model: Model) -> Iterator[Plan]:
    """Open or begin the plan of a folder.

    Raises:
        UsageError: it is another job's, in use, damaged, or cannot be written.
    """
    sources = hashlib.sha256("\0".join(map(shown_path, job.sources)).encode()).hexdigest()
    settings = msgspec.json.encode({**job.settings, "key": model.key}).decode()
    key = Key(sources, (model.sha256,), (settings,), FORMAT)
    with open_journal(folder / PLAN, key, _KIND) as journal:
        plan = Plan(journal, key, folder / PLAN)
        try:
            yield plan
        finally:
            if plan.session is None:  # nothing was begun, so that a mistake in the sources can be mended
                journal.forget()
