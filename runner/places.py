"""Shows what turns out to be wrong with a job only when it is made ready: at its place in the job file, as all else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runner.dataset.settings import WrongSetting
from runner.load import PROMPTS, Job
from runner.problems import At, Mark, Problem, SpecErrors, display
from runner.sections import PromptFile
from runner.template import PromptError
from runner.yaml_source import Source


@contextmanager
def at_its_place(job: Job) -> Iterator[None]:
    """Turn a mistake in a template or in a key of `input` into one that names its place.

    Raises:
        SpecErrors: in place of the error that was raised inside.
    """
    try:
        yield
    except WrongSetting as error:
        raise SpecErrors([job.source.problem(("input", error.key), error.message, error.hint)]) from None
    except PromptError as error:
        raise SpecErrors([prompt_problem(job, error)]) from None


def prompt_problem(job: Job, error: PromptError) -> Problem:
    """Return a mistake in a template: in the job file, or in the prompt file that holds the template."""
    at, file = _message(job, error.position)
    file = error.file or file
    if not error.line:
        return job.source.problem(at, error.message, error.hint)
    if file is None:
        return job.source.problem_in_text(at, error.line, error.message, error.hint)
    source = Source(display(job.root / PROMPTS / file), error.text)
    return source.problem_at(Mark(error.line, 1), error.message, error.hint)


def _message(job: Job, position: int) -> tuple[At, str | None]:
    """Return where a message of the prompt stands in the job file, and the file that it is kept in."""
    prompt = job.spec.prompt
    role, _ = job.prompts[position]
    at: At = ("prompt", role)
    content = prompt.system if role == "system" else prompt.user
    if prompt.messages is not None:
        at, content = ("prompt", "messages", position, "content"), prompt.messages[position].content
    return at, content.file if isinstance(content, PromptFile) else None
