"""Conducts a run whose requests go out in batches: fill, submit, follow, collect, and send what is left in time.

One loop does one thing after the other, so that at any moment the ledger says all there is to know. The one exception
is the end of a hybrid run, where live requests go out while the last batches come home.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from runner.batches import listing
from runner.batches.collecting import Collected
from runner.batches.desk import BatchEndpoint, Gone, TooLarge
from runner.batches.ledger import Entry
from runner.batches.office import Office
from runner.batches.packing import Packing, Sizes
from runner.batches.stream import LiveRows, Pause, RowStream
from runner.budget import NOTHING
from runner.errors import FatalError
from runner.forecast import LIVE_MARGIN, live_s
from runner.openai_batches import BatchState
from runner.progress import duration
from runner.store import disk_error
from runner.strategies import Calls, Emit, Requests, Strategy

_FIRST_LOOK_S = 15.0
_SLOWER = 1.5
_LONGEST_LOOK_S = 180.0
# How long the API may take to cancel a batch (https://platform.openai.com/docs/api-reference/batch/cancel).
_CANCEL_S = 600.0
_SAMPLE = 200  # rows at the beginning, from which is learned what one takes
_BREATH = 200  # rows, after which others get a turn
_REFUSED_S = 60.0  # the first wait for room in the server's queue; it doubles
_MOST_REFUSED_S = 1800.0
_SPLIT_AFTER = 3  # refusals in a row
# A batch takes hours, however small it is: a budget that leaves room for less than this share of the largest one so far
# counts as spent.
_WORTH_IT = 0.1
_FULL = "token_limit_exceeded"
# What is said of a line, and would be true of every other: which row it is has nothing to do with it.
_OF_EVERY_ROW = frozenset({"url_mismatch", "model_mismatch", "model_not_found", "invalid_method"})


@dataclass(frozen=True)
class Finish:
    """How a run ends live.

    Attributes:
        live: carries out what the batches did not.
        deadline_us: when everything has to be done, in microseconds since 1970; None: only what batches leave over.
        at_once: bring all batches home now.
    """

    live: Strategy
    deadline_us: int | None = None
    at_once: bool = False


@dataclass(slots=True)
class _Watched:
    """When to look at a batch again, on the clock that `Course` waits by."""

    wait_s: float
    at_s: float


class Course:
    """One session of a run in batches.

    Args:
        finish: how the run ends live; None: it does not.
    """

    def __init__(self, office: Office, requests: Requests, calls: Calls, emit: Emit, finish: Finish | None) -> None:
        self._office = office
        self._desk = office.desk
        self._ledger = office.desk.ledger
        self._calls = calls
        self._emit = emit
        self._finish = finish
        self._stop = office.stop
        self._errand = office.home.errand
        self._sizes = Sizes(tokens=office.desk.most_tokens)
        self._packings: dict[int, Packing] = {}
        self._rows = RowStream(self._ledger, office.home.kept, requests, self._packings)
        self._watched: dict[int, _Watched] = {}
        self._not_before: dict[int, float] = {}
        self._expired = False
        self._began_us = office.clock.now_us()
        self._seen_us = self._began_us
        self._passed_s = 0.0
        self._largest = 0
        self._tokens_per_row = 0.0
        self._arrived = asyncio.Event()

    async def run(self) -> None:
        """Work until every row has a result, or until there is nothing to do but wait and nobody wants to."""
        self._office.tally.table = self.table
        try:
            await self._open()
            await self._work()
        except FatalError as error:
            self._stop.request(error)
        except OSError as error:
            self._stop.request(disk_error(error, self._ledger.folder))
        finally:
            for packing in self._packings.values():
                packing.discard()

    async def _work(self) -> None:
        if self._errand.cancel:
            await self._cancel_all()
            await self._bring_home()
            return
        self._say_if_late()
        while not self._stop.requested:
            if self._finish is not None and self._live_is_due():
                await self._go_live(self._finish)
                return
            await self._fill()
            await self._look(everywhere=not self._errand.wait)
            if self._through():
                return
            if not self._errand.wait:
                await self._fill()  # what has ended made room
                if self._finish is not None and self._finish.deadline_us is not None:
                    self._office.home.note("nobody watches the deadline until the run is resumed")
                return
            if not self._arrived.is_set():
                await self._pause()
            self._arrived.clear()  # else there is room, and there may be rows to be sent again

    async def _open(self) -> None:
        """Take up where the last session ended."""
        ledger, budget = self._ledger, self._office.budget
        for entry in ledger.open:
            if budget is not None:
                budget.adopt(entry.most)
        for entry in ledger.entries:
            if entry.state == "submitting" and self._sends:
                await self._sent(entry, None)
            elif entry.state == "submitting":
                await self._desk.take_back(entry)
            elif not entry.open:
                await self._desk.forget(entry)
        self._count()

    @property
    def _sends(self) -> bool:
        """Whether this session makes batches at all."""
        return not self._errand.cancel and (self._finish is None or not self._finish.at_once)

    def _through(self) -> bool:
        return self._rows.exhausted and not self._ledger.open and not self._ledger.waiting_again()

    # Filling and submitting -------------------------------------------------------------------------------------------

    async def _fill(self) -> None:
        """Pack and submit as much as there are rows, room and money for."""
        while not self._stop.requested:
            if not await self._send_packed() or not await self._pack():
                return

    async def _send_packed(self) -> bool:
        """Submit the batches that were packed; return False where one has to wait for room."""
        blocked = False
        for entry in [entry for entry in self._ledger.open if entry.state == "packed"]:
            if self._stop.requested:
                return False
            endpoint = (
                self._desk.endpoint_for(entry) if self._now_s() >= self._not_before.get(entry.number, 0.0) else None
            )
            if endpoint is None:
                blocked = True
            else:
                await self._sent(entry, endpoint)
        return not blocked

    async def _sent(self, entry: Entry, endpoint: BatchEndpoint | None) -> None:
        """Submit a batch, or (without `endpoint`) finish submitting it as an earlier session began to."""
        try:
            if endpoint is None:
                await self._desk.take_up(entry)
            else:
                await self._desk.submit(entry, endpoint)
        except TooLarge as error:
            await self._too_large(entry, error)
            return
        except Gone as error:
            self._office.home.warn(f"batch {entry.number}: its file is uploaded again: {error}")
            await self._closed(entry, await self._office.collector.give_back(entry))
            return
        self._office.tally.attempts += entry.requests
        self._office.tally.submitted += entry.requests
        self._watched[entry.number] = _Watched(_FIRST_LOOK_S, self._now_s() + _FIRST_LOOK_S)
        requests = "1 request" if entry.requests == 1 else f"{entry.requests:,} requests"
        self._office.home.note(f"batch {entry.number}: submitted as {entry.batch_id}, {requests}")
        self._count()

    async def _too_large(self, entry: Entry, error: TooLarge) -> None:
        if entry.requests > 1:
            size = self._ledger.path(entry.number, "requests").stat().st_size
            self._sizes.bytes = min(self._sizes.bytes, size // 2)
            await self._closed(entry, await self._office.collector.give_back(entry, pieces=2))
        else:
            reason = {1: f"the request is too large for the Batch API: {error.__cause__}"}
            await self._closed(entry, await self._office.collector.refuse(entry, reason))

    async def _pack(self) -> bool:
        """Fill batches until one is full or nothing is left to pack; return whether one was made."""
        office, budget = self._office, self._office.budget
        count = 0
        while (row := self._rows.next_row()) is not None:
            count += 1
            if count % _BREATH == 0:
                await asyncio.sleep(0)
            if isinstance(row, Pause):
                continue
            model, body = row.pending.item.model, row.request.body
            packing = self._packings.get(model)
            if packing is None:
                packing = self._packings[model] = Packing(self._ledger, model, self._desk.url, self._sizes)
            tokens = office.estimates[model].input_tokens(row.pending.input_tokens)
            if not packing.has_room(body, tokens):
                self._rows.hold(row)
                await self._finish_packing(packing)
                return True
            most = office.bounds[model](len(body)) if budget is not None else NOTHING
            if budget is not None and (refusal := budget.commit(most)) is not None:
                self._rows.hold(row)
                if sum(each.requests for each in self._packings.values()) > self._largest * _WORTH_IT:
                    return await self._finish_all()
                if not self._ledger.open:
                    raise refusal
                return False  # what batches do not take of the budget comes back
            packing.add(row.pending, body, tokens, most)
            if row.again is not None:
                packing.takes_over(*row.again)
        return await self._finish_all()

    async def _finish_all(self) -> bool:
        if self._stop.requested:
            return False
        made = [packing for packing in self._packings.values() if packing.requests]
        for packing in made:
            await self._finish_packing(packing)
        return bool(made)

    async def _finish_packing(self, packing: Packing) -> None:
        del self._packings[packing.model]
        self._largest = max(self._largest, packing.requests)
        await asyncio.to_thread(packing.finish, self._office.clock.now_us())

    # Following and collecting -----------------------------------------------------------------------------------------

    async def _look(self, *, everywhere: bool = False) -> None:
        """Look at the batches whose time has come, and collect those that have ended."""
        now = self._now_s()
        due = [
            entry
            for entry in self._ledger.open
            if entry.state in ("submitted", "ended") and (everywhere or self._watch(entry).at_s <= now)
        ]
        for entry in due:
            if self._stop.requested:
                return
            before = entry.status, entry.done
            try:
                state = await self._desk.look(entry)
            except Gone:
                self._office.home.warn(f"batch {entry.number} is lost with its simulator; its rows are sent again")
                await self._closed(entry, await self._office.collector.give_back(entry))
                continue
            watched = self._watch(entry)
            moved = (entry.status, entry.done) != before
            watched.wait_s = _FIRST_LOOK_S if moved else min(_LONGEST_LOOK_S, watched.wait_s * _SLOWER)
            watched.at_s = self._now_s() + watched.wait_s
            if state is not None and entry.status != before[0]:
                self._office.home.note(
                    f"batch {entry.number}: {entry.status}, {state.done:,} done and {state.failed:,} failed "
                    f"of {entry.requests:,}"
                )
            if state is not None and state.ended:
                self._count()
                await self._collect(entry, state)
        self._count()

    def _watch(self, entry: Entry) -> _Watched:
        return self._watched.setdefault(entry.number, _Watched(_FIRST_LOOK_S, 0.0))

    async def _collect(self, entry: Entry, state: BatchState) -> None:
        if state.status == "failed":
            await self._failed(entry, state)
            return
        self._expired = self._expired or state.status == "expired"
        for file_id, kind, lines in (
            (state.output_file_id, "output", state.done), (state.error_file_id, "errors", state.failed),
        ):  # fmt: skip
            if file_id is not None:
                await self._desk.download(entry, file_id, kind, lines)
        await self._closed(entry, await self._office.collector.collect(entry, self._office.row_errors[entry.endpoint]))

    async def _failed(self, entry: Entry, state: BatchState) -> None:
        """Do what helps against the reason for which the server refused a whole batch."""
        office, errors = self._office, state.errors
        if any(error.code == _FULL for error in errors):
            await self._no_room(entry)
            return
        said = f"{errors[0].message} ({errors[0].code})" if errors else "it gives no reason"
        reasons = {error.line: f"the batch was refused for this row: {error.message} ({error.code})"
                   for error in reversed(errors)
                   if error.line is not None and 1 <= error.line <= entry.requests
                   and error.code not in _OF_EVERY_ROW}  # fmt: skip
        if reasons:
            office.home.warn(f"batch {entry.number} was refused for {len(reasons):,} of its rows: {said}")
            await self._closed(entry, await office.collector.refuse(entry, reasons))
            return
        await self._closed(entry, await office.collector.give_back(entry))
        raise FatalError(
            f"the server refused batch {entry.batch_id}: {said}",
            kind="batch_refused",
            where=f"endpoint `{entry.endpoint}`",
            hint="mend the cause and resume; `runner resume --strategy asyncio` goes on without the Batch API",
        )

    async def _no_room(self, entry: Entry) -> None:
        """Wait, and submit the same file again; a batch that is refused time and again may be too large."""
        entry.refused += 1
        if entry.refused % _SPLIT_AFTER == 0 and entry.requests > 1:
            self._sizes.tokens = entry.tokens // 2 + entry.tokens // entry.requests
            self._office.home.note(f"batch {entry.number}: no room for it at the server; it is sent in two halves")
            await self._closed(entry, await self._office.collector.give_back(entry, pieces=2))
            return
        entry.state, entry.batch_id, entry.status = "packed", None, None
        self._ledger.save(entry)
        wait_s = min(_MOST_REFUSED_S, _REFUSED_S * 2 ** (entry.refused - 1))
        self._not_before[entry.number] = self._now_s() + wait_s
        self._office.home.note(f"batch {entry.number}: no room for it at the server; again in {wait_s:.0f} s")

    async def _closed(self, entry: Entry, found: Collected | None) -> None:
        """Settle what a batch leaves behind once all its rows are accounted for."""
        if found is None:  # the disk failed, or the run stops: what was not kept is collected again
            return
        if self._office.budget is not None:
            self._office.budget.redeem(entry.most, found.spent)
        if found.again:
            self._office.home.note(f"batch {entry.number}: {found.again:,} of {entry.requests:,} rows are sent again")
        self._arrived.set()
        if entry.endpoint:
            await self._desk.forget(entry)
        if found.fatal is not None:
            raise found.fatal

    async def _pause(self) -> None:
        """Wait until there is something to do."""
        open_entries = self._ledger.open
        moments = [self._watch(entry).at_s for entry in open_entries if entry.state in ("submitted", "ended")]
        moments += [self._not_before.get(entry.number, 0.0) for entry in open_entries if entry.state == "packed"]
        waiting = [moment for moment in moments if moment > self._now_s()]
        seconds = min([_LONGEST_LOOK_S, *(moment - self._now_s() for moment in waiting)])
        await self._sleep(max(0.05, seconds))

    # The end, live ----------------------------------------------------------------------------------------------------

    def _unfinished(self) -> int:
        """Return how many rows nobody has answered, as far as is known."""
        return max(0, self._office.home.left() - sum(entry.done for entry in self._ledger.open))

    def _live_s(self, count: int) -> float:
        return live_s(count, self._tokens_per_row, self._office.limits)

    def _learn(self) -> None:
        """Learn from the first rows, or else from earlier batches, what a row takes."""
        sample = self._rows.look_ahead(_SAMPLE)
        if sample:
            tokens = [self._office.estimates[row.pending.item.model].need(row.request).tokens for row in sample]
            self._tokens_per_row = sum(tokens) / len(tokens)
        elif self._ledger.entries:
            inputs = sum(entry.tokens for entry in self._ledger.entries)
            requests = sum(entry.requests for entry in self._ledger.entries)
            self._tokens_per_row = self._office.estimates[0].tokens(inputs // requests)

    def _say_if_late(self) -> None:
        deadline_us = self._finish.deadline_us if self._finish is not None else None
        if deadline_us is None:
            return
        self._learn()
        late_s = self._live_s(self._unfinished()) - (deadline_us - self._now_us()) / 1e6
        if late_s > 0:
            self._office.home.warn(
                f"the deadline cannot be met: sent live, the rows take about {duration(late_s)} longer than that"
            )

    def _live_is_due(self) -> bool:
        """Whether the time left is only just enough to send the rest live, or batches do not keep their word."""
        assert self._finish is not None
        if self._finish.at_once or self._expired:
            return True
        if self._finish.deadline_us is None:
            return False
        # Where the server has no batch, one that is submitted now would have to be cancelled as well.
        needed_s = self._live_s(self._unfinished()) * LIVE_MARGIN + _LONGEST_LOOK_S + _CANCEL_S
        return self._now_us() + needed_s * 1e6 >= self._finish.deadline_us

    async def _go_live(self, finish: Finish) -> None:
        """Send live what no batch will answer: each row only once its batch has ended and was collected."""
        if self._ledger.open or not finish.at_once:
            self._office.home.note(f"going live with what is unfinished: {self._unfinished():,} rows")
        await self._finish_all()  # what the budget left half packed
        for entry in [entry for entry in self._ledger.open if entry.state == "packed"]:
            await self._closed(entry, await self._office.collector.give_back(entry))
        live = LiveRows(self._rows, self._emit)
        home = asyncio.create_task(self._home_safely())  # beside: a server that does not answer holds up no live row
        try:
            while not self._stop.requested:
                self._arrived.clear()
                before = home.done()
                await finish.live.run(live, self._calls, live.emit)
                if before and not self._ledger.waiting_again():
                    break
                await self._arrival(home)
        finally:
            home.cancel()
            [error] = await asyncio.gather(home, return_exceptions=True)
        if isinstance(error, Exception):
            raise error  # a bug, which does not pass unseen

    async def _arrival(self, home: asyncio.Task[None]) -> None:
        """Wait until a batch has come home, or all have."""
        arrived = asyncio.create_task(self._arrived.wait())
        try:
            with self._stop.waiting():
                await asyncio.wait([home, arrived], return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrived.cancel()

    async def _home_safely(self) -> None:
        try:
            await self._cancel_all()
            await self._bring_home()
        except FatalError as error:
            self._stop.request(error)
        except OSError as error:
            self._stop.request(disk_error(error, self._ledger.folder))

    async def _cancel_all(self) -> None:
        for entry in self._ledger.open:
            if entry.state == "submitted":
                await self._desk.cancel(entry)
                self._watched[entry.number] = _Watched(_FIRST_LOOK_S, self._now_s())

    async def _bring_home(self) -> None:
        """Follow all batches to their end."""
        while not self._stop.requested:
            await self._look()
            for entry in [entry for entry in self._ledger.open if entry.state == "packed"]:
                await self._closed(entry, await self._office.collector.give_back(entry))  # there was no room for it
            if not self._ledger.open:
                return
            await self._pause()

    # Time, and what the user sees -------------------------------------------------------------------------------------

    def _now_s(self) -> float:
        """Return the seconds since this session began; they pass faster where the server's do.

        By the wall clock: a steady one may stand still while a laptop sleeps, and the batches go on.
        """
        now_us = self._office.clock.now_us()
        self._passed_s += max(0, now_us - self._seen_us) / 1e6 * self._desk.haste
        self._seen_us = now_us
        return self._passed_s

    def _now_us(self) -> int:
        return self._began_us + round(self._now_s() * 1e6)

    async def _sleep(self, seconds: float) -> None:
        await self._stop.sleep(seconds / self._desk.haste)

    def _count(self) -> None:
        """Show how many requests are in batches."""
        entries = [entry for entry in self._ledger.open if entry.at_server]
        self._office.tally.batched = sum(max(0, entry.requests - entry.done - entry.failed) for entry in entries)

    def table(self) -> list[str]:
        """Return a line for each batch that is on its way."""
        return [listing.line(entry, self._now_us()) for entry in self._ledger.open]
