"""Step workflows: declarative programs of named steps, each run by an agent."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ._native import native
from .agents.registry import names_with_versions
from .errors import InvalidWorkflow
from .functions import AGENT_PREFIX, RetryPolicy, options_of

__all__ = ["Language", "Step", "StepWorkflow", "load_workflow"]

Language = Literal["json", "yaml", "toml"]

_LANGUAGES: dict[str, Language] = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".toml": "toml",
    ".json": "json",
}
_PLACE = re.compile(r"^workflow\.(?:yaml|toml|json):", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: a name, the agent that runs it, and what the agent is given.

    Texts in `input` hold templates over the workflow's inputs and the results of earlier steps:
    `{{ inputs.text }}`, `{{ steps.summarize.summary }}`; without `input` the agent is given the
    workflow's inputs. `needs` names the steps it waits for;
    `when` is a condition without which the step is left out, `foreach` a list for each item of
    which it is run. `timeout` is in seconds of one attempt.
    """

    name: str
    agent: str
    input: Mapping[str, Any] | str | None = None
    needs: Sequence[str] | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None
    when: str | None = None
    foreach: str | Sequence[Any] | None = None

    def _to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {"name": self.name, "agent": self.agent}
        if self.input is not None:
            wire["input"] = dict(self.input) if isinstance(self.input, Mapping) else self.input
        if self.needs is not None:
            wire["needs"] = [self.needs] if isinstance(self.needs, str) else list(self.needs)
        if self.retry is not None:
            wire["retry"] = self.retry._to_wire()
        for name in ("timeout", "when", "foreach"):
            value = getattr(self, name)
            if value is not None:
                wire[name] = value
        return wire


@dataclasses.dataclass(frozen=True, init=False)
class StepWorkflow:
    """A workflow of steps. Without `needs` they run one after the other, as written; with `needs`
    those that wait for nothing more run at once.

    >>> StepWorkflow("report", [
    ...     Step("summarize", "summarize", {"text": "{{ inputs.text }}"}),
    ...     Step("check", "proofread", {"text": "{{ steps.summarize.summary }}"}),
    ... ])

    `inputs` declares what it is started with: names, or for each name a dict with `type` (`string`,
    `integer`, `number`, `boolean`, `array`, `object`), `default` and `required`. What is wrong with
    a workflow is told when it is started.
    """

    id: str
    source: str
    """The definition as it is stored."""
    language: Language
    agents: tuple[str, ...] = dataclasses.field(compare=False)
    """The agents that its steps name."""
    file: Path | None = dataclasses.field(default=None, compare=False)
    """Where it was read."""

    def __init__(
        self,
        id: str,  # noqa: A002
        steps: Iterable[Step],
        *,
        inputs: Sequence[str] | Mapping[str, Any] | None = None,
        description: str | None = None,
    ) -> None:
        definition: dict[str, Any] = {"id": id}
        if description is not None:
            definition["description"] = description
        if inputs is not None:
            definition["inputs"] = dict(inputs) if isinstance(inputs, Mapping) else list(inputs)
        steps = list(steps)
        definition["steps"] = [step._to_wire() for step in steps]
        try:
            text = json.dumps(definition, ensure_ascii=False, allow_nan=False, indent=2)
        except (TypeError, ValueError) as error:
            raise InvalidWorkflow(
                f"the workflow '{id}' holds what has no JSON form: {error}"
            ) from error
        self._set(id, text, "json", [step.agent for step in steps])

    def _set(
        self,
        id: str,  # noqa: A002
        source: str,
        language: Language,
        agents: Iterable[str],
        file: Path | None = None,
    ) -> None:
        members = {"id": id, "source": source, "language": language, "file": file}
        for name, value in {**members, "agents": tuple(sorted(set(agents)))}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_text(cls, source: str, language: Language, file: Path | None = None) -> StepWorkflow:
        """A workflow as it is written down. Raises InvalidWorkflow for an unknown language."""
        if language not in _LANGUAGES.values():
            raise InvalidWorkflow(f"language is {language!r}, expected 'yaml', 'toml' or 'json'")
        # Mistakes are told when it is started, with their places.
        id, agents = native().outline(source, language)  # noqa: A001
        workflow = cls.__new__(cls)
        workflow._set(id or (file.stem if file else "workflow"), source, language, agents, file)
        return workflow

    def declared_agents(self, *, all_known: bool = False) -> str:
        """The agents of this process that its steps name, or all of them, as the engine wants
        them: JSON, options by name."""
        names = [name for name in names_with_versions() if all_known or name in self.agents]
        return json.dumps({name: options_of(AGENT_PREFIX + name) for name in sorted(names)})

    def refused(self, error: InvalidWorkflow) -> InvalidWorkflow:
        """What the engine says is wrong with it, by the name of its file."""
        if self.file is None:
            return error
        return InvalidWorkflow(_PLACE.sub(lambda _: f"{self.file}:", str(error)))


def load_workflow(source: str | Path, language: Language | None = None) -> StepWorkflow:
    """The workflow in a file (`.yaml`, `.yml`, `.toml`, `.json`), or in a text of a language.

    >>> load_workflow("workflows/report.yaml")
    >>> load_workflow("id: report\\nsteps: …", "yaml")

    Raises InvalidWorkflow for a file that is not there or of another kind. What is wrong with the
    workflow itself is told when it is started.
    """
    if language is not None and not isinstance(source, Path):
        return StepWorkflow.from_text(source, language)
    path = Path(source)
    known = language or _LANGUAGES.get(path.suffix.lower())
    if known is None:
        raise InvalidWorkflow(
            f"{str(source)[:200]!r} is no file of a workflow, which ends in .yaml, .yml, .toml or "
            ".json: for a text say its language, load_workflow(text, 'yaml')"
        )
    try:
        return StepWorkflow.from_text(path.read_text(encoding="utf-8"), known, path)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidWorkflow(f"the workflow {path} can't be read: {error}") from error
