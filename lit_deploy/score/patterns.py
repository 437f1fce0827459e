"""Patterns as a shell knows them, matched folder by folder, so that nothing is read that cannot match."""

from __future__ import annotations

from fnmatch import fnmatchcase

from lit_deploy.images.folders import is_pattern
from lit_deploy.score.storage import is_url

_MAGIC = frozenset("*?[")

Parts = tuple[str, ...]


def holds_magic(name: str) -> bool:
    """Whether this is a pattern: no file of that name, and no web address, where a question mark begins a query."""
    if is_url(name):
        return not name.startswith(("https://", "http://")) and not _MAGIC.isdisjoint(name)
    return is_pattern(name)


class Pattern:
    """``photos/**/*.jpg``: the folder ``root`` in which it begins, and what is below it.

    ``*`` and ``?`` stand for letters of a name, ``[...]`` for one of some letters, ``**`` for any folders.
    """

    def __init__(self, text: str) -> None:
        head, mark, rest = text.partition("://") if is_url(text) else ("", "", text)
        names = rest.split("/")
        start = next(index for index, name in enumerate(names) if not _MAGIC.isdisjoint(name))
        self.root = head + mark + ("/".join(names[:start]) or ("/" if rest.startswith("/") else "."))
        self._names = tuple(name for name in names[start:] if name)
        self._fixed = self._names.index("**") if "**" in self._names else len(self._names)

    def may_hold(self, folder: Parts) -> bool:
        """Whether something in a folder below the root may match."""
        return all(map(fnmatchcase, folder, self._names[: self._fixed]))

    def matches(self, path: Parts) -> bool:
        """Whether a path below the root matches."""
        return _match(path, self._names)

    def matches_folder_of(self, path: Parts) -> bool:
        """Whether a folder that a path leads through matches."""
        return any(_match(path[:length], self._names) for length in range(1, len(path)))


def _match(path: Parts, names: Parts) -> bool:
    if not names:
        return not path
    if names[0] == "**":
        return _match(path, names[1:]) or (bool(path) and _match(path[1:], names))
    return bool(path) and fnmatchcase(path[0], names[0]) and _match(path[1:], names[1:])
