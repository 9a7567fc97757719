"""Source text that arrives in chunks, as the statements that can run already."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..checks import source_lines

__all__ = ["Lines", "Statement", "StatementSplitter"]

_BLOCK = frozenset(("if", "for", "while", "try", "async", "with", "def", "class"))
_CLAUSE = frozenset(("else", "elif", "except", "finally"))

_word = re.compile(r"[^\W\d]\w*").match
_in_code = re.compile(r"[^\s\"'#\\()\[\]{}:]+|[\"'#\\()\[\]{}:\n]").search
_prefix_of_f_string = re.compile(r"(?:^|\W)(?:[fFtT][rR]?|[rR][fFtT])$").search


@dataclass(frozen=True)
class Statement:
    """Whole lines of source that can run: one statement, or several on one line with `;` between
    them, with the comments and blank lines before it."""

    text: str
    line: int
    """The number of its first line, from 1."""

    @property
    def source(self) -> str:
        """Its text without what stands around it."""
        lines = source_lines(self.text)
        while lines and (not lines[0].strip() or lines[0].lstrip().startswith("#")):
            del lines[0]
        return "\n".join(lines).rstrip()

    @property
    def source_line(self) -> int:
        """The line on which the statement itself begins."""
        lines = enumerate(source_lines(self.text), self.line)
        begun = (n for n, line in lines if line.strip() and not line.lstrip().startswith("#"))
        return next(begun, self.line)


class Lines:
    """Follows lines of Python through strings, brackets and continued lines.

    It looks at each character once, so that long texts cost no more than their length. It says
    only where a statement may end; the parser has the last word on what it is.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        """What is open: brackets, quotes, and `f{` and `f:` for the parts of an f-string."""
        self._backslash = False
        self.last = ""
        """The last character of the logical line that is neither blank nor comment."""

    def feed(self, line: str) -> bool:
        """Takes a line, with its end. Whether a logical line ends with it."""
        if not self._open and not self._backslash:
            self.last = ""
        self._backslash = False
        at = 0
        while at < len(line):
            at = self._string(line, at) if self._in_string() else self._code(line, at)
        return not self._open and not self._backslash

    def _in_string(self) -> bool:
        return bool(self._open) and self._open[-1][-1] in "\"':"

    def _code(self, line: str, at: int) -> int:
        found = _in_code(line, at)
        if found is None:
            return len(line)
        text, start, end = found[0], found.start(), found.end()
        if text == "#":
            return len(line)
        if text == "\\" and line[end:].strip("\r") in ("\n", ""):
            self._backslash = True
            return len(line)
        if text == "\n":
            return end
        self.last = text[-1]
        if text in "\"'":
            quote = text * 3 if line.startswith(text * 3, start) else text
            # An empty string of one quote each is over at once.
            if quote == text and line.startswith(text * 2, start):
                return start + 2
            is_f = _prefix_of_f_string(line[max(0, start - 3) : start]) is not None
            self._open.append(("f" if is_f else "") + quote)
            return start + len(quote)
        if text in "([{":
            self._open.append(text)
        elif text in ")]}" and self._open:
            self._open.pop()
        elif text == ":" and self._open and self._open[-1] == "f{":
            self._open.append("f:")
        return end

    def _string(self, line: str, at: int) -> int:
        inside = self._open[-1]
        quote = self._open[-3][1:] if inside == "f:" else inside.removeprefix("f")
        is_f = inside.startswith("f")
        while at < len(line):
            char = line[at]
            if char == "\\":
                # The end of a line that is so continued stays within the string.
                if line[at + 1 :].strip("\r") in ("\n", ""):
                    return len(line)
                at += 1 if is_f and line.startswith("{", at + 1) else 2
            elif inside != "f:" and line.startswith(quote, at):
                self._open.pop()
                return at + len(quote)
            elif is_f and char == "{":
                if inside != "f:" and line.startswith("{{", at):
                    at += 2
                    continue
                self._open.append("f{")
                return at + 1
            elif inside == "f:" and char == "}":
                del self._open[-2:]
                return at + 1
            elif char == "\n" and len(quote) == 1:
                # Not closed: the parser tells it better.
                self._open.clear()
                return len(line)
            else:
                at += 1
        return at


class StatementSplitter:
    """Takes text in chunks and gives the statements that are complete.

    A statement is complete when nothing that may follow could be part of it: a simple one at the
    end of its line, a block when a line at the left margin begins something else.
    """

    def __init__(self, line: int = 1) -> None:
        self._lines = Lines()
        self._line = line
        """The number of the first line of `_pending`."""
        self._pending: list[str] = []
        self._logical: list[str] = []
        self._in_block = False
        self._tail: list[str] = []

    def feed(self, text: str) -> list[Statement]:
        """Takes more text; the statements that are complete with it."""
        head, newline, tail = text.rpartition("\n")
        if not newline:
            self._tail += [text] if text else []
            return []
        whole = "".join(self._tail) + head + newline
        self._tail = [tail] if tail else []
        statements: list[Statement] = []
        for line in whole.split("\n")[:-1]:
            self._take(line + "\n", statements)
        return statements

    def finish(self) -> list[Statement]:
        """No more text comes: what is left, complete or not."""
        statements = self.feed("\n") if self._tail else []
        self._pending += self._logical
        self._logical = []
        self._emit(statements)
        self._lines = Lines()
        return statements

    @property
    def rest(self) -> str:
        """What was taken and not given yet."""
        return "".join((*self._pending, *self._logical, *self._tail))

    def _take(self, line: str, statements: list[Statement]) -> None:
        self._logical.append(line)
        if not self._lines.feed(line):
            return
        first, logical = self._logical[0], self._logical
        self._logical = []
        if not self._lines.last or first[0] in " \t\f":
            self._pending += logical
            return
        match = _word(first)
        word = "" if match is None else match[0]
        is_clause = self._in_block and word in _CLAUSE
        if self._in_block and not is_clause:
            self._emit(statements)
        self._pending += logical
        is_block = self._lines.last == ":" or word in _BLOCK or is_clause
        # A decorator is no statement yet: what it decorates follows.
        self._in_block = is_block and not first.startswith("@")
        if not self._in_block and not first.startswith("@"):
            self._emit(statements)

    def _emit(self, statements: list[Statement]) -> None:
        if self._pending:
            text = "".join(self._pending)
            statements.append(Statement(text, self._line))
            self._line += text.count("\n")
            self._pending = []
        self._in_block = False
