"""Finds the rows of an input that no earlier run of the job has answered as they are now.

    with Asked(plan) as asked:
        found = plan.survey(progress, asked.unfit)
        new = asked.new_rows(base, found.rows, warn)

Each request of the input is a mark of 16 bytes in a temporary file, and so is each answer of the earlier runs: 8 bytes
for what a row is known by, 8 for the request. Then the two files are compared in passes, each over those marks that
share some bits, so that memory does not grow with the rows. Nothing is kept between runs that could be out of date.
"""

from __future__ import annotations

import struct
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from runner import journal, parts, runs, selection
from runner.dataset.survey import Survey, even_sample
from runner.errors import FatalError
from runner.history import Past, in_order
from runner.output import RUNNER_FIELDS, to_table
from runner.plan import Plan
from runner.records import Item
from runner.selection import Selection
from runner.template import MissingField
from runner.temporary import room_for_files

_MARK_BYTES = 16
_MARK = struct.Struct("<q8s")
"""The mark of a request under a name: Python's own hash of the name, which lasts as long as the process, as marks do,
and half of the fingerprint. That two of a million names share a hash has a probability of 3 in a hundred million, and
makes rows of them new that are not; that a row is taken for another one would take all 16 bytes."""

_WRITE_AT = 8192
_READ_MARKS = 1 << 16
_MARKS_PER_PASS = 1 << 18
_BATCH_ROWS = 50_000
_SLICE_ROWS = 1 << 20
_NOTHING = bytes(_MARK_BYTES)  # the mark of a bad row, which is no request's


class NewRows:
    """Which rows of an input are new: a bit for each.

    Args:
        first: the position of the first row in the whole input.
        rows: how many rows there are.

    Attributes:
        reusable: whether earlier runs may have answered a request of theirs: for another row, or one of several models.
    """

    def __init__(self, first: int, rows: int) -> None:
        self.reusable = True
        self._first = first
        self._rows = rows
        self._bits = bytearray((rows + 7) // 8)

    def add(self, numbers: Iterable[int]) -> None:
        """Take rows in, by their number, which is 0 for the first."""
        bits = self._bits
        for number in numbers:
            bits[number >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int) -> bool:
        return bool(self._bits[number >> 3] & 1 << (number & 7))

    @property
    def count(self) -> int:
        """How many are new."""
        return int.from_bytes(self._bits, "little").bit_count()

    def save(self, folder: Path) -> Selection:
        """Write them down as those that a run takes in, durably.

        Raises:
            OSError: the folder cannot be written to.
        """
        return selection.save(folder, self._positions())

    def numbers(self) -> Iterator[int]:
        """Yield their numbers in order."""
        return (position - self._first for position in self.positions())

    def positions(self) -> Iterator[int]:
        """Yield their positions in the whole input, in order."""
        for some in self._positions():
            yield from some.to_pylist()

    def _positions(self) -> Iterator[pa.Array]:
        bits = pa.Array.from_buffers(pa.bool_(), self._rows, [None, pa.py_buffer(self._bits)])
        for start in range(0, self._rows, _SLICE_ROWS):
            numbers = pc.indices_nonzero(bits.slice(start, _SLICE_ROWS)).cast(pa.int64())
            yield pc.add(numbers, pa.scalar(self._first + start, pa.int64()))


class Asked:
    """Everything that a job asks about its input. Use it as a context manager.

    Args:
        plan: of a job with `incremental`.
        at_a_time: about how many marks are compared at a time.

    Raises:
        InputError: there is no room for temporary files.
    """

    def __init__(self, plan: Plan, at_a_time: int = _MARKS_PER_PASS) -> None:
        self._at_a_time = at_a_time
        spec = plan.job.spec
        assert spec.incremental is not None
        self._builder = plan.builder
        self._rehearsal = plan.job.rehearsal
        self._skips_bad = spec.input.on_bad_row == "skip"
        self._models = len(spec.models)
        self._names = _Names(spec.input.id, spec.models) if spec.incremental.by == "id" else None
        self._first = self._next = spec.input.offset
        self._marks = _Marks()

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *exception: object) -> None:
        self._marks.close()

    def unfit(self, item: Item) -> str | None:
        """Take in what is asked about a row, or return why nothing can be. Rows come in input order, bad ones need not.

        Raises:
            InputError: there is no room for temporary files.
            PromptError: the template is wrong, whatever the row.
        """
        try:
            fingerprints = self._builder.fingerprints(item)
        except MissingField as error:
            return error.message
        if item.index != self._next:
            self._pass_over(item.index)
        self._next = item.index + 1
        if self._names is not None:
            row_id = item.id if item.id.isascii() else _as_kept(item.id)
            of_models = zip(self._names.starts, fingerprints, strict=True)
            fingerprints = [_MARK.pack(hash(start + row_id), fingerprint) for start, fingerprint in of_models]
        self._marks.add(*fingerprints)
        return None

    def _pass_over(self, position: int) -> None:
        """Give the rows up to a position, which are bad, a mark for each of their requests."""
        for _ in range(position - self._next):
            self._marks.add(*[_NOTHING] * self._models)
        self._next = position

    def new_rows(self, base: Path, rows: int, warn: Callable[[str], None]) -> NewRows:
        """Return which rows lack an answer of one of the models. Bad rows do, unless the job leaves them out.

        Rows that share an id are new together, because the dataset takes all rows of an id from one run.

        Args:
            base: the job's folder. Who holds its lock knows that no answers come meanwhile.
            rows: how many the input has, bad ones included.
            warn: told of each run whose answers cannot be read, or are still to come.

        Raises:
            InputError: there is no room for temporary files.
        """
        self._pass_over(self._first + rows)
        new = NewRows(self._first, rows)
        ends = []
        counting, complete = self._runs(base, warn)
        with _Marks() as answered:
            if self._skips_bad:
                answered.add(_NOTHING)
                ends.append(1)
            for run in counting:
                for path in [*sorted(run.folder.glob("retry-*.jsonl")), *parts.sources(run.folder)]:
                    try:
                        for marks in self._answers(run, path):
                            answered.add(marks)
                    except (FatalError, OSError, ValueError) as error:
                        why = error.message if isinstance(error, FatalError) else error
                        warn(f"{path}: {why}; its rows count as not answered")
                        complete = False
                ends.append(answered.count)
            for lacking in _lacking(self._marks, answered, ends, self._at_a_time):
                new.add(dict.fromkeys(number // self._models for number in lacking))
            if complete and new.count * self._models <= self._at_a_time:
                requests = [row * self._models + model for row in new.numbers() for model in range(self._models)]
                new.reusable = _any_answered(self._marks, requests, answered)
        pa.default_memory_pool().release_unused()
        return new

    def _runs(self, base: Path, warn: Callable[[str], None]) -> tuple[list[Past], bool]:
        """Return the runs whose answers count, newest first, and whether none is left out: a rehearsal has its own."""
        found, unreadable = in_order(runs.runs_in(base))
        for folder, why in sorted(unreadable.items()):
            warn(f"run {folder.name} counts for nothing: {why}")
        alike = [run for run in reversed(found) if run.is_rehearsal == self._rehearsal and run.manifest.results]
        counting = [run for run in alike if self._names is None or self._names.fit(run)]
        for run in counting:
            if run.manifest.status == "waiting":
                warn(f"run {run.name} has rows in batches, which are sent again: better `runner resume` it first")
        return counting, len(counting) == len(alike) and not unreadable

    def _answers(self, run: Past, path: Path) -> Iterator[bytes]:
        """Yield the marks of the answers in a part or journal of a run, many at a time."""
        names = self._names
        wanted = ("_fingerprint", "_status") if names is None else ("_id", "_model", "_fingerprint", "_status")
        for table in _tables(path, pa.schema([field for field in RUNNER_FIELDS if field.name in wanted])):
            ok = pc.and_(pc.equal(table.column("_status"), "ok"), pc.is_valid(table.column("_fingerprint")))
            if names is not None and names.several(run):
                ok = pc.and_(ok, pc.is_in(table.column("_model"), pa.array(names.models)))
            answers = table.filter(ok)
            fingerprints = bytes.fromhex("".join(answers.column("_fingerprint").to_pylist()))
            if len(fingerprints) != _MARK_BYTES * len(answers):
                raise ValueError("a fingerprint in it is none")
            if names is None:
                yield fingerprints
            else:
                of_rows = enumerate(names.of_answers(answers))
                yield b"".join([_MARK.pack(hash(name), fingerprints[at * 16 : at * 16 + 8]) for at, name in of_rows])


class _Names:
    """What a row is known by in the job's dataset, as `runner.latest` has it after a run with these models.

    Where several models are asked, a row is one for each of them. Where one is, its answers count, and those of runs
    that asked another one alone.

    Args:
        column: the input's column with the ids.

    Attributes:
        starts: what the name of a row begins with, before its id, for each model.
    """

    def __init__(self, column: str | None, models: Sequence[str]) -> None:
        self.models = tuple(models)
        self._column = column
        self.starts = [f"{model}\0" for model in models] if len(models) > 1 else [""]

    def fit(self, run: Past) -> bool:
        """Whether a run's rows have their ids from the same column."""
        return bool(run.manifest.spec["input"].get("id") == self._column)

    def several(self, run: Past) -> bool:
        """Whether only the answers of these models count in a run."""
        return len(self.models) > 1 or len(run.manifest.models) > 1

    def of_answers(self, answers: pa.Table) -> list[str]:
        """Return the name of each of some answers."""
        ids: list[str] = answers.column("_id").to_pylist()
        if len(self.models) == 1:
            return ids
        return [f"{model}\0{row_id}" for model, row_id in zip(answers.column("_model").to_pylist(), ids, strict=True)]


def _as_kept(text: str) -> str:
    """Return a text as the parts hold it: they cannot hold what is no Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def _tables(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield these columns of a part or journal."""
    if path.suffix == ".jsonl":
        try:
            rows = (row for _, row in journal.standing(path))
            while some := list(islice(rows, _BATCH_ROWS)):
                yield to_table(some, schema)
            return
        except FileNotFoundError:  # sealed meanwhile
            path = parts.part_path(path.parent, parts.number_of(path))
    yield from parts.tables(path, _BATCH_ROWS, schema)


# Comparing ------------------------------------------------------------------------------------------------------------


def _lacking(asked: _Marks, answered: _Marks, ends: Sequence[int], at_a_time: int) -> Iterator[list[int]]:
    """Yield the numbers of the marks in `asked` whose name lacks an answer, those of a pass at a time.

    A name lacks one when one of its marks is not among those that the newest run with this name has.

    Args:
        ends: how many marks of `answered` there are up to the end of each run, newest first.
    """
    passes = 1
    while passes * at_a_time < max(asked.count, answered.count):
        passes *= 2
    for turn in range(passes):
        numbers, names, requests = asked.sharing(passes, turn)
        their_numbers, their_names, their_requests = answered.sharing(passes, turn)
        run = _runs_of(their_numbers, ends)
        newest = run.take(pc.index_in(their_names, value_set=their_names))  # that of the first mark with this name
        counts = pc.equal(run, newest)
        known = _are_among(names, requests, their_names.filter(counts), their_requests.filter(counts))
        lacking = names.filter(pc.invert(known))
        yield numbers.filter(pc.is_in(names, value_set=lacking)).to_pylist()


def _are_among(names: pa.Array, requests: pa.Array, their_names: pa.Array, their_requests: pa.Array) -> pa.Array:
    """Return which marks, in two halves, are among others: found by both halves in one, then compared by each."""
    place = pc.index_in(pc.bit_wise_xor(names, requests), value_set=pc.bit_wise_xor(their_names, their_requests))
    same = pc.and_(pc.equal(their_names.take(place), names), pc.equal(their_requests.take(place), requests))
    return pc.coalesce(same, pa.scalar(False))


def _any_answered(asked: _Marks, numbers: Sequence[int], answered: _Marks) -> bool:
    """Return whether there is an answer, under whatever name, to one of the requests with these numbers, in order."""
    wanted = []
    for first, _, requests in asked.all():
        within = numbers[bisect_left(numbers, first) : bisect_left(numbers, first + len(requests))]
        wanted.append(requests.take(pa.array([number - first for number in within], pa.int64())))
    among = pa.chunked_array(wanted, pa.uint64())
    return any(pc.any(pc.is_in(requests, value_set=among)).as_py() for _, _, requests in answered.all())


def _runs_of(numbers: pa.Array, ends: Sequence[int]) -> pa.Array:
    """Return which run each of some marks is of."""
    view = memoryview(numbers.buffers()[1] or b"").cast("q") if len(numbers) else ()
    cuts = {bisect_left(view, end): run for run, end in reversed([*enumerate(ends)])}
    cuts.pop(0, None)
    in_order = sorted(cuts.items())
    lengths = pa.array([cut for cut, _ in in_order], pa.int32())
    return pc.run_end_decode(
        pa.RunEndEncodedArray.from_arrays(lengths, pa.array([run for _, run in in_order], pa.int32()))
    )


class _Marks:
    """Marks in a temporary file without a name, numbered in the order in which they are added."""

    def __init__(self) -> None:
        with room_for_files("the rows that are new cannot be found"):
            self._file = tempfile.TemporaryFile(prefix="runner-marks-")  # noqa: SIM115 - `close` does
        self._waiting: list[bytes] = []
        self._written = 0

    def __enter__(self) -> _Marks:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        with room_for_files("the rows that are new cannot be found"):
            self._file.close()

    def add(self, *marks: bytes) -> None:
        """Add some; what is added at once may also be many in one."""
        waiting = self._waiting
        waiting += marks
        if len(waiting) >= _WRITE_AT:
            self._write()

    @property
    def count(self) -> int:
        """How many there are."""
        self._write()
        return self._written

    def _write(self) -> None:
        content = b"".join(self._waiting)
        self._waiting.clear()
        self._written += len(content) // _MARK_BYTES
        with room_for_files("the rows that are new cannot be found"):
            self._file.write(content)

    def sharing(self, passes: int, turn: int) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Return the marks whose first halves have these last bits: their numbers, their first and second halves.

        Args:
            passes: how many turns there are, a power of two.
            turn: the bits.
        """
        bits, wanted = pa.scalar(passes - 1, pa.uint64()), pa.scalar(turn, pa.uint64())
        found = [(pa.array([], pa.int64()), pa.array([], pa.uint64()), pa.array([], pa.uint64()))]
        for first, names, requests in self.all():
            chosen = pc.indices_nonzero(pc.equal(pc.bit_wise_and(names, bits), wanted)).cast(pa.int64())
            found.append((pc.add(chosen, pa.scalar(first, pa.int64())), names.take(chosen), requests.take(chosen)))
        numbers, names, requests = (pa.concat_arrays(column) for column in zip(*found, strict=True))
        return numbers, names, requests

    def all(self) -> Iterator[tuple[int, pa.Array, pa.Array]]:
        """Yield the first and second halves of all marks, many at a time, with the number of the first of them."""
        self._write()
        first = 0
        with room_for_files("the rows that are new cannot be found"):
            self._file.seek(0)
        while content := self._read():
            rows = len(content) // _MARK_BYTES
            halves = pa.Array.from_buffers(pa.uint64(), 2 * rows, [None, pa.py_buffer(content)])
            marks = pa.FixedSizeListArray.from_arrays(halves, 2)
            yield first, pc.list_element(marks, 0), pc.list_element(marks, 1)
            first += rows

    def _read(self) -> bytes:
        with room_for_files("the rows that are new cannot be found"):
            return self._file.read(_READ_MARKS * _MARK_BYTES)


# What others ask ------------------------------------------------------------------------------------------------------


@contextmanager
def asking(plan: Plan) -> Iterator[Asked | None]:
    """Yield what a survey of the input gathers what is asked with; None where the job takes in every row."""
    if plan.job.spec.incremental is None:
        yield None
        return
    with Asked(plan) as asked:
        yield asked


def narrowed(plan: Plan, found: Survey, new: NewRows, *, sample: bool) -> tuple[Plan, Survey]:
    """Return a plan and a survey for the rows that are taken in alone; that of the columns and types stays as it is.

    Args:
        sample: also draw a sample of those rows, which reads the input to the last of them.
    """
    bad = found.bad if plan.job.spec.input.on_bad_row == "skip" else 0  # which a survey counts, and a run leaves out
    plan = replace(plan, selection=new)
    found = replace(found, rows=new.count + bad)
    if sample:
        fit = (row for row in plan.rows() if isinstance(row, Item) and plan.unfit(row) is None)
        found = replace(found, sample=even_sample(fit))
    return plan, found


def are_new(plan: Plan, base: Path, items: Sequence[Item]) -> list[bool]:
    """Return whether each of a few rows is new, as far as it shares its id with none but these.

    Raises:
        InputError: there is no room for temporary files.
    """
    first = plan.job.spec.input.offset
    with Asked(plan) as asked:
        for number, item in enumerate(items):
            asked.unfit(replace(item, index=first + number))
        new = asked.new_rows(base, len(items), lambda text: None)
        return [number in new for number in range(len(items))]
