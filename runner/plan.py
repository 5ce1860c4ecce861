"""Everything that is decided before the first request: what is asked, of which rows, and what the output looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from runner.answer import Answer, JsonAnswer, OneLabel, PlainText
from runner.dataset import Dataset, open_dataset
from runner.dataset.nearest import nearest
from runner.dataset.survey import Survey, survey
from runner.dialects import Dialect, dialect
from runner.errors import InputError, SpecError
from runner.evaluate.columns import answer_problems, expected_columns, input_problems
from runner.load import PROMPTS, Job
from runner.output import Output
from runner.places import at_its_place, prompt_problem
from runner.prices import Tariff
from runner.problems import SpecErrors, in_order
from runner.questionnaire import questionnaire
from runner.records import BadRow, Item
from runner.requests import RequestBuilder
from runner.selection import Positions
from runner.template import MissingField, PromptTemplate


@dataclass(frozen=True)
class Plan:
    """A job, made ready. It reads the dataset, and touches neither the network nor the output."""

    job: Job
    dialect: Dialect
    answer: Answer
    template: PromptTemplate
    builder: RequestBuilder
    dataset: Dataset
    tariffs: tuple[Tariff, ...]
    selection: Positions | None = None  # the rows that a run takes in; None: all

    def unfit(self, item: Item) -> str | None:
        """Return why a row cannot be made into a prompt; None: it can.

        Raises:
            PromptError: the template is wrong, whatever the row.
        """
        if self.template.simple and self.template.names <= item.fields.keys():
            return None
        try:
            self.template.render(item.fields)
        except MissingField as error:
            return error.message
        return None

    def survey(
        self, progress: Callable[[int], None] | None = None, unfit: Callable[[Item], str | None] | None = None
    ) -> Survey:
        """Read the whole input once, and check what can be known of it.

        Args:
            unfit: stands in for the method of that name, to see the rows as well.

        Raises:
            InputError: the input cannot be read, or has bad rows that the job does not allow.
            SpecErrors: the job names columns that are not there, or the prompt does what it may not, or there are too
                few rows.
        """
        check, dates, lacking = unfit or self.unfit, self.template.dates, set[str]()

        def seen(item: Item) -> str | None:
            lacking.update(dates - item.fields.keys())
            return check(item)

        with at_its_place(self.job):
            found = survey(self.dataset, seen if dates else check, self._check_columns, progress)
            for error in self.template.two_things(lacking.intersection(found.columns)):
                raise error
        if found.bad and self.job.spec.input.on_bad_row == "fail":
            raise _bad_rows(found)
        self._refuse_too_few(found)
        return found

    def _refuse_too_few(self, found: Survey) -> None:
        """Raise SpecErrors where fewer rows can be used than the job asks for; `limit` leaves none out here."""
        settings = self.job.spec.input
        fewest, usable = settings.min_rows or 0, found.rows - found.bad
        if usable < fewest and settings.limit is not None:
            rows = Dataset(settings.model_copy(update={"limit": None}), self.dataset.root, self.dataset.sources).rows()
            with closing(rows):
                good = (row for row in rows if isinstance(row, Item) and self.unfit(row) is None)
                usable = sum(1 for _ in islice(good, fewest))
        if usable < fewest:
            first, *others = (source.name for source in self.dataset.sources)
            files = f"{first} and {len(others)} more" if others else first
            rows_said = "1 row" if usable == 1 else f"{usable:,} rows"
            message = f"the input ({files}) has {rows_said} to use, and `input.min_rows` asks for {fewest:,}"
            hint = "see whether it is complete, and run the job again; or lower `min_rows`"
            if found.bad:
                bad = found.bad_examples[0]
                hint += f"; the first row that cannot be used is {bad.where}: {bad.reason}"
            raise SpecErrors([self.job.source.problem(("input", "min_rows"), message, hint)])

    def _check_columns(self, columns: Sequence[str]) -> None:
        """Look for the columns that the job names.

        Raises:
            SpecErrors: for all of those that the input lacks.
        """
        settings, problem = self.job.spec.input, self.job.source.problem
        problems = [prompt_problem(self.job, error) for error in self.template.unknown(columns)]
        if settings.id is not None and settings.id not in columns:
            message = f"`input.id` names `{settings.id}`, and the input has no such column"
            problems.append(problem(("input", "id"), message, nearest(settings.id, columns)))
        for index, name in enumerate(settings.keep or ()):
            if name not in columns:
                message = f"`input.keep` names `{name}`, and the input has no such column"
                problems.append(problem(("input", "keep", index), message, nearest(name, columns)))
        problems += input_problems(self.job, columns)
        if problems:
            raise SpecErrors(in_order(problems))

    def output(self, found: Survey) -> Output:
        """Return the output's columns: those to copy, those with expected answers, the answer's and the runner's.

        Raises:
            SpecErrors: two columns would have the same name.
        """
        spec = self.job.spec
        keep = spec.input.keep
        if keep is None or not found.columns:  # none are known where no row could be read
            keep = found.columns
        expected = dict.fromkeys(expected_columns(self.job).values())
        keep = (*keep, *(name for name in expected if name in found.columns and name not in keep))
        copied = [found.schema.field(name) for name in keep]
        rename = "name the answer's column with `output.column`"
        if self.job.json_schema is not None:
            rename = "rename the property in the schema"
        elif spec.output.questions is not None:
            rename = "give the question another name"
        try:
            return Output.of(copied, self.answer.fields, spec.models, wide=spec.output.layout == "wide", rename=rename)
        except SpecError as error:
            raise SpecErrors([self.job.source.problem(("input", "keep"), error.message, error.hint)]) from None

    def rows(self) -> Iterator[Item | BadRow]:
        """Yield the rows of the run; bad ones are left out where the job says so."""
        return (row for row in self.paced_rows() if row is not None)

    def paced_rows(self) -> Iterator[Item | BadRow | None]:
        """Yield the rows of the run, and None for a pause after many that it does not take in.

        Raises:
            InputError: the input cannot be read.
            FatalError: nor can the list of the rows that the run takes in.
        """
        if self.selection is not None:
            return self.dataset.picked(self.selection.positions())
        if self.job.spec.input.on_bad_row != "skip":
            return self.dataset.rows()
        return (row for row in self.dataset.rows() if isinstance(row, Item) and self.unfit(row) is None)


def make_plan(job: Job) -> Plan:
    """Make a job ready.

    Raises:
        SpecErrors: a template is wrong, a key of `input` does not fit its files, or `evaluate` not the answer.
        InputError: a file of the input cannot be read.
    """
    spec = job.spec
    api = dialect(spec.api)
    answer, template = question(job)
    with at_its_place(job):
        dataset = open_dataset(spec.input, job.root)
    builder = RequestBuilder(
        template,
        api,
        spec.models,
        spec.parameters,
        answer.asked,
        strict=spec.output.strict,
        endpoint_kind=job.endpoint_kind,
    )
    return Plan(job, api, answer, template, builder, dataset, tuple(tariff(job, model) for model in spec.models))


def question(job: Job) -> tuple[Answer, PromptTemplate]:
    """Return what the answers are to look like and how to ask for them: all that can be said without the input.

    Raises:
        SpecErrors: a template is wrong, or `evaluate` does not fit the answer.
    """
    answer = _answer(job)
    wrong = list(answer_problems(job, answer.fields))
    if wrong:
        raise SpecErrors(in_order(wrong))
    with at_its_place(job):
        return answer, PromptTemplate(job.prompts, job.root / PROMPTS, job.run_date)


def _answer(job: Job) -> Answer:
    output = job.spec.output
    if output.labels is not None and output.one_label and job.spec.api != "decisions":
        return OneLabel(output.labels, output.column or "label")
    if output.asked:
        return questionnaire(output, job.spec.api)
    if job.json_schema is not None:
        return JsonAnswer(job.json_schema)
    return PlainText(output.column or "response")


def tariff(job: Job, model: str) -> Tariff:
    """Return how the tokens of one of the job's models turn into money."""
    spec = job.spec
    return job.models.tariff(model, spec.api, spec.parameters.get("service_tier"))


def _bad_rows(found: Survey) -> InputError:
    first, *others = found.bad_examples
    more = "".join(f"\n  --> {row.where}: {row.reason}" for row in others)
    if found.bad > len(found.bad_examples):
        more += f"\n  … and {found.bad - len(found.bad_examples)} more"
    count = "1 row of the input is" if found.bad == 1 else f"{found.bad} rows of the input are"
    return InputError(
        f"{count} bad, the first because: {first.reason}",
        where=first.where + more,
        hint="mend the file or the prompt, or set `input.on_bad_row` to `error_row` or `skip`",
    )
