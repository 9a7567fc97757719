"""Two agents that need no model: a summary, and the entities of a text. Both are deterministic."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from .context import METADATA, AgentContext

__all__ = ["EntityAgent", "SummarizeAgent"]


class SummarizeAgent:
    """Summarizes `text` by its most telling sentences, in their order.

    `max_sentences` (3) bounds how many. Gives `summary`, `original_length`, `summary_length` (both
    in characters) and `compression_ratio`, the second divided by the first.
    """

    def run(self, payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        """See the class."""
        text = _text_of(payload, context)
        most = payload.get("max_sentences", 3)
        if type(most) is not int or most < 1:
            raise ValueError(
                f"agent '{context.agent}': max_sentences is {most!r}, it must be at least 1"
            )
        sentences = _sentences(text)
        summary = " ".join(sentences[index] for index in _telling(sentences, most))
        return {
            "summary": summary,
            "original_length": len(text),
            "summary_length": len(summary),
            "compression_ratio": round(len(summary) / len(text), 4) if text else 0.0,
            METADATA: {"agent": "SummarizeAgent", "version": "1"},
        }


class EntityAgent:
    """Finds the entities of `text`.

    Gives `emails`, `urls`, `phone_numbers`, `numbers`, `capitalized_words` and `dates`, each a list
    of different texts in the order they first stand there; `entity_counts` by kind,
    `total_entities` and `text_stats`.
    """

    def run(self, payload: dict[str, Any], context: AgentContext) -> dict[str, Any]:
        """See the class."""
        text = _text_of(payload, context)
        entities = _entities(text)
        counts = {kind: len(found) for kind, found in entities.items()}
        return {
            **entities,
            "entity_counts": counts,
            "total_entities": sum(counts.values()),
            "text_stats": {
                "characters": len(text),
                "words": len(text.split()),
                "sentences": len(_sentences(text)),
                "lines": len(text.splitlines()),
            },
            METADATA: {"agent": "EntityAgent", "version": "1"},
        }


def _text_of(payload: dict[str, Any], context: AgentContext) -> str:
    text = payload.get("text")
    if text is None:
        given = ", ".join(sorted(payload)) or "nothing"
        raise ValueError(f"agent '{context.agent}' needs 'text' in its payload, which has {given}")
    if not isinstance(text, str):
        raise TypeError(
            f"agent '{context.agent}': 'text' is a {type(text).__name__}, it must be a string"
        )
    return text


# Summaries

_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_WORD = re.compile(r"[^\W\d_]{4,}")


def _sentences(text: str) -> list[str]:
    parts = (" ".join(part.split()) for part in _END.split(text))
    return [part for part in parts if part]


def _telling(sentences: list[str], most: int) -> list[int]:
    """The places of the sentences whose words are said most often, in their order. Among equals
    the earlier one is taken."""
    words = [_WORD.findall(sentence.lower()) for sentence in sentences]
    frequency = Counter(word for each in words for word in each)
    scores = [
        sum(frequency[word] for word in set(each)) / (len(each) + 1) if each else 0.0
        for each in words
    ]
    best = sorted(range(len(sentences)), key=lambda index: (-scores[index], index))[:most]
    return sorted(best)


# Entities

_MONTHS = (
    "Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    "Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?"
)
_URL = re.compile(r"https?://[^\s<>\"'\])]+")
# A match may only begin where a word does: otherwise a long word is searched from each letter.
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}")
_DATE = re.compile(
    r"(?<![\w/-])(?:"
    r"\d{4}-\d{2}-\d{2}"
    r"|\d{1,2}/\d{1,2}/(?:\d{4}|\d{2})"
    r"|\d{1,2}\.\d{1,2}\.\d{4}"
    rf"|(?:{_MONTHS})\.? \d{{1,2}}(?:,? \d{{4}})?"
    rf"|\d{{1,2}} (?:{_MONTHS})(?: \d{{4}})?"
    r")(?![\w/])"
)
_PHONE = re.compile(r"(?<![\w.,])[+(]?\d(?:[ ().-]{0,2}\d){6,14}(?!\w)")
_NUMBER = re.compile(r"(?<![\w.,])[+-]?\d+(?:,\d{3})*(?:\.\d+)?%?(?!\w)")
_CAPITALIZED = re.compile(r"(?<!\w)[^\W\d_][^\W\d_]+(?!\w)")


def _entities(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    # Each kind is looked for in what those before it have left.
    urls, text = _take(_URL, text, trim=".,;:!?")
    found["emails"], text = _take(_EMAIL, text)
    found["urls"] = urls
    dates, text = _take(_DATE, text)
    found["phone_numbers"], text = _take(_PHONE, text, accept=_is_phone_number)
    found["numbers"], text = _take(_NUMBER, text)
    words = (match[0] for match in _CAPITALIZED.finditer(text) if match[0][0].isupper())
    found["capitalized_words"] = list(dict.fromkeys(words))
    found["dates"] = dates
    return found


def _take(
    pattern: re.Pattern[str], text: str, *, trim: str = "", accept: Any = None
) -> tuple[list[str], str]:
    """What matches, each once, and the text without it."""
    found: dict[str, None] = {}

    def take(match: re.Match[str]) -> str:
        whole = match[0].rstrip(trim) if trim else match[0]
        if accept is not None and not accept(whole):
            return match[0]
        found[whole] = None
        return "\n" * len(match[0])

    rest = pattern.sub(take, text)
    return list(found), rest


def _is_phone_number(text: str) -> bool:
    """Whether digits are written as people write telephone numbers, and not as a number."""
    separators = re.findall(r"[ ().-]+", text)
    return text.startswith(("+", "(")) or len(separators) >= 2
