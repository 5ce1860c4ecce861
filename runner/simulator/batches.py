"""Keeps the batches of all accounts: what is due is done when somebody looks, a little at a time."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any
from uuid import uuid4

from runner.simulator.accounts import Account
from runner.simulator.batch_check import APIS, InputCheck, LineError
from runner.simulator.batch_life import ENDED, Life
from runner.simulator.batch_output import BatchOutput, LineAnswer
from runner.simulator.draws import Draws, digest_of
from runner.simulator.faults import latency_of
from runner.simulator.files import Files, StoredFile
from runner.simulator.paging import page
from runner.simulator.questions import Refused
from runner.simulator.settings import BatchScript, BatchSettings
from runner.simulator.stats import NOTHING, Tokens

_STEP = 50  # requests in one go: about five milliseconds, in which the server answers nobody else
_FIELDS = ("completion_window", "endpoint", "input_file_id", "metadata", "output_expires_after")
_MOST_LISTED = 100
_USUALLY_LISTED = 20
_MOST_PAIRS, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512

_OF_WHOLE_BATCHES = frozenset({"empty_file", "too_many_tasks", "billing_hard_limit_reached"})  # not of a line


@dataclass(slots=True)
class Batch:
    """One batch.

    Attributes:
        name: 16 bytes that everything about it is drawn from.
        script: what it does; nothing in it is None but what does not apply.
        check: the validation, while it goes on.
        output: the results, once it is validated.
        settled: it has ended, and its results are written.
    """

    id: str
    owner: Account
    source: StoredFile
    endpoint: str
    metadata: dict[str, str] | None
    name: bytes
    script: BatchScript
    life: Life
    check: InputCheck | None
    output: BatchOutput | None = None
    errors: tuple[LineError, ...] = ()
    model: str | None = None
    tokens: int = 0
    settled: bool = False
    output_file: StoredFile | None = None
    error_file: StoredFile | None = None

    def shown(self, now: float) -> dict[str, Any]:
        """The batch as the API shows it."""
        output, status = self.output, self.life.status(now)
        output_file, error_file = (self.output_file, self.error_file) if status in ENDED else (None, None)
        charged = NOTHING if output is None else output.charged
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": {"object": "list", "data": [each.shown() for each in self.errors]} if self.errors else None,
            "input_file_id": self.source.id,
            "completion_window": "24h",
            "status": status,
            "output_file_id": output_file and output_file.id,
            "error_file_id": error_file and error_file.id,
            **self.life.timestamps(now),
            "request_counts": {
                "total": output.total if output is not None else 0,
                "completed": output.completed if output is not None else 0,
                "failed": output.failed if output is not None else 0,
            },
            "usage": {
                "input_tokens": charged.input,
                "input_tokens_details": {"cached_tokens": charged.cached},
                "output_tokens": charged.output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": charged.input + charged.output,
            },
            "metadata": self.metadata,
        }


class Batches:
    """Every batch there is.

    Args:
        seed: another one draws other fates.
        files: where inputs are, and results go.
        answer: carries out one request of an account, given the API and the body.
        known_model: whether there is a model of this name.
    """

    def __init__(
        self,
        settings: BatchSettings,
        seed: int,
        files: Files,
        answer: Callable[[str, dict[str, Any], Account], LineAnswer],
        known_model: Callable[[str], bool],
    ) -> None:
        self._settings = settings
        self._seed = seed
        self._files = files
        self._answer = answer
        self._known_model = known_model
        self._batches: dict[str, Batch] = {}
        self._unchecked: deque[Batch] = deque()
        self._enqueued: list[Batch] = []
        self._of_same_input: Counter[bytes] = Counter()
        self._metadata: Counter[tuple[Account, str]] = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget the counters; the batches stay."""
        self._created = 0
        self._executed = 0
        self._completed = 0
        self._given_up = Counter({"cancelled": 0, "expired": 0})
        self._charged = NOTHING
        self._with_same_metadata = 0
        self._max_enqueued_tokens = 0
        self._max_unfinished = 0
        self._metadata.clear()
        self._counted = set[str]()

    def create(self, owner: Account, body: bytes, now: float) -> Batch:
        """Create a batch.

        Raises:
            Refused: 400, the request is wrong; 404, there is no such file.
        """
        fields = _read(body)
        source = self._files.get(owner, fields["input_file_id"])
        if source.purpose != "batch":
            message = f"The file has the purpose '{source.purpose}', and a batch needs 'batch'."
            raise Refused(400, message, code="invalid_purpose", param="input_file_id")
        settings = self._settings
        repeated = self._of_same_input[source.digest]
        self._of_same_input[source.digest] += 1
        name = digest_of(self._seed, source.digest + repeated.to_bytes(8, "little"))
        place = len(self._batches)
        script = settings.script[place] if place < len(settings.script) else BatchScript()
        script = self._fate(script, Draws(name, "batch"))
        life = Life(
            now, settings.validating_s, script.duration_s or 0.0, settings.finalizing_s, settings.cancelling_s,
            settings.window_s,
        )  # fmt: skip
        if script.expire_at is not None:
            left = max(0.0, life.expires_at - life.in_progress_at)
            # Just beyond the window, even where all requests are done by its end.
            life.duration_s = max(left / script.expire_at, left + 1e-3) if script.expire_at else inf
        check = InputCheck(source.path, fields["endpoint"], settings.max_requests, self._known_model)
        metadata = fields.get("metadata")
        batch = Batch(f"batch_{uuid4().hex}", owner, source, fields["endpoint"], metadata, name, script, life, check)
        source.needed_by += 1
        self._batches[batch.id] = batch
        self._unchecked.append(batch)
        self._count_new(batch, now)
        return batch

    def _fate(self, script: BatchScript, draws: Draws) -> BatchScript:
        """What a batch does: as its script says, else as is drawn. Takes the same draws, whatever the script."""
        settings, faults = self._settings, self._settings.faults
        met = {name: draws.unit() < probability for name, probability in faults}
        duration_s = latency_of(settings.duration_s, draws)
        share = draws.unit() if settings.expire_share is None else settings.expire_share
        drawn = {
            "duration_s": duration_s,
            "expire_at": share if met["expire"] and script.duration_s is None else None,
            "fail": "token_limit_exceeded" if met["fail_tokens"] else None,
            "lose_create_answer": met["lose_create_answer"],
            "truncate_download": int(met["truncate_download"]),
            "duplicate_lines": int(met["duplicate_lines"]),
            "unknown_lines": int(met["unknown_lines"]),
            "missing_lines": int(met["missing_lines"]),
        }
        return script.model_copy(update={key: value for key, value in drawn.items() if getattr(script, key) is None})

    def _count_new(self, batch: Batch, now: float) -> None:
        self._created += 1
        self._counted.add(batch.id)
        if batch.metadata:
            alike = (batch.owner, json.dumps(batch.metadata, sort_keys=True))
            self._with_same_metadata += self._metadata[alike] > 0
            self._metadata[alike] += 1
        unfinished = sum(each.life.status(now) not in ENDED for each in self._batches.values() if not each.settled)
        self._max_unfinished = max(self._max_unfinished, unfinished)

    def get(self, owner: Account, name: str) -> Batch:
        """The batch of this id.

        Raises:
            Refused: 404, the account has none.
        """
        batch = self._batches.get(name)
        if batch is None or batch.owner is not owner:
            raise Refused(404, f"No batch found with id '{name}'.", param="batch_id")
        return batch

    def of(self, owner: Account, query: Mapping[str, str]) -> list[Batch]:
        """Those of an account that a page of its list shows, newest first.

        Raises:
            Refused: 400, the query is wrong.
        """
        shown = self.page(owner, query, lambda batch: {"id": batch.id})
        return [self._batches[each["id"]] for each in shown["data"]]

    def page(self, owner: Account, query: Mapping[str, str], show: Callable[[Batch], dict[str, Any]]) -> dict[str, Any]:
        """A page of an account's batches, newest first.

        Raises:
            Refused: 400, the query is wrong.
        """
        mine = [batch for batch in reversed(self._batches.values()) if batch.owner is owner]
        return page(mine, query, _MOST_LISTED, _USUALLY_LISTED, show)

    def all(self) -> list[Batch]:
        """Every batch, of every account."""
        return list(self._batches.values())

    def cancel(self, batch: Batch, now: float) -> None:
        """Cancel a batch on which nothing is due. One that is being cancelled stays as it is.

        Raises:
            Refused: 409, it has ended.
        """
        status = batch.life.status(inf if batch.settled else now)
        if status in ENDED:
            raise Refused(409, f"Cannot cancel a batch with status '{status}'.")
        if status != "cancelling":
            batch.life.cancelling_at = now

    def work(self, now: float, wanted: Collection[Batch]) -> bool:
        """Do a little of what is due; says whether there was anything.

        Batches are validated in the order of their creation, so that the limit of enqueued tokens is the first one's.

        Args:
            wanted: those whose requests are carried out; every batch is validated.
        """
        while self._unchecked and (batch := self._unchecked[0]).life.in_progress_at <= now:
            check, cancelling_at = batch.check, batch.life.cancelling_at
            if check is None or (cancelling_at is not None and cancelling_at < batch.life.in_progress_at):
                self._unchecked.popleft()
                continue
            check.step(_STEP)
            if check.done:
                self._admit(batch, check)
                batch.check = None
            return True
        return any(self._advance(batch, now) for batch in wanted if not batch.settled)

    def _admit(self, batch: Batch, check: InputCheck) -> None:
        """A batch was read to its end: it is carried out, or it fails."""
        at = batch.life.in_progress_at
        batch.model = check.model
        errors = check.errors
        self._enqueued = [each for each in self._enqueued if each.life.ends_at > at]
        before = sum(each.tokens for each in self._enqueued if each.owner is batch.owner and each.model == batch.model)
        if not errors:
            errors = [*self._fails(batch, before + check.tokens)]
        if errors:
            batch.errors = tuple(errors)
            batch.life.failed = True
            return
        batch.tokens = check.tokens
        self._enqueued.append(batch)
        self._max_enqueued_tokens = max(self._max_enqueued_tokens, before + check.tokens)
        script = batch.script
        batch.output = BatchOutput(
            batch.source.path,
            check.starts,
            check.lengths,
            batch.name,
            lambda body: self._carry_out(batch, body),
            (self._files.new_path(), self._files.new_path()),
            only_errors=script.only_errors,
            missing=script.missing_lines or 0,
            duplicate=script.duplicate_lines or 0,
        )

    def _fails(self, batch: Batch, enqueued: int) -> list[LineError]:
        most = self._settings.enqueued_tokens
        code = batch.script.fail
        if code == "token_limit_exceeded" or (code is None and most is not None and enqueued > most):
            shown = "0" if most is None else f"{most:,}"
            message = (
                f"Enqueued token limit reached for {batch.model}. Limit: {shown} enqueued tokens. "
                "Please try again once some in_progress batches have been completed."
            )
            return [LineError("token_limit_exceeded", message)]
        line = None if code in _OF_WHOLE_BATCHES else 1
        return [] if code is None else [LineError(code, "The simulator lets this batch fail.", line)]

    def _carry_out(self, batch: Batch, body: dict[str, Any]) -> LineAnswer:
        result = self._answer(APIS[batch.endpoint], body, batch.owner)
        self._executed += 1
        self._completed += result.status == 200
        self._charged = self._charged.plus(result.tokens)
        return result

    def _advance(self, batch: Batch, now: float) -> bool:
        """Carry out what is due of one batch, a little of it; says whether there was anything."""
        status = batch.life.status(now)
        output = batch.output
        if output is not None:
            due = int(output.total * batch.life.share_done(now) + 1e-6) - output.executed
            if due > 0:
                output.execute(min(due, _STEP))
                return True
            if status in ENDED and output.left:
                given_up = min(output.left, _STEP)
                output.give_up(given_up, status)
                self._given_up[status] += given_up
                return True
        if status not in ENDED:
            return False
        self._settle(batch, now)
        return True

    def _settle(self, batch: Batch, now: float) -> None:
        """A batch has ended: its results become files."""
        batch.settled = True
        self._files.release(batch.source)
        output = batch.output
        if output is None:
            return
        output.finish(batch.script.unknown_lines or 0)
        number = batch.id.removeprefix("batch_")
        kept = []
        for path, what in ((output.output_path, "output"), (output.error_path, "error")):
            stored = None
            if path.exists():
                title = f"batch_{number}_{what}.jsonl"
                stored = self._files.add(batch.owner, path, title, "batch_output", batch.name)
                stored.created_at = min(now, batch.life.ends_at)
            kept.append(stored)
        batch.output_file, batch.error_file = kept
        if (first := batch.output_file or batch.error_file) is not None:
            first.to_cut = batch.script.truncate_download or 0

    def snapshot(self, now: float) -> dict[str, Any]:
        """The counters as `GET /stats` shows them."""
        states = Counter(each.life.status(now) for each in self._batches.values() if each.id in self._counted)
        enqueued = sum(each.tokens for each in self._enqueued if each.life.ends_at > now)
        charged: Tokens = self._charged
        return {
            "created": self._created,
            "states": dict(sorted(states.items())),
            "batch_requests": self._executed,
            "answered": self._completed,
            "failed_requests": self._executed - self._completed,
            "cancelled_requests": self._given_up["cancelled"],
            "expired_requests": self._given_up["expired"],
            "tokens": {
                "input": charged.input,
                "output": charged.output,
                "cached": charged.cached,
                "cache_write": charged.cache_write,
            },
            "batches_with_same_metadata": self._with_same_metadata,
            "enqueued_tokens": enqueued,
            "max_enqueued_tokens": self._max_enqueued_tokens,
            "max_unfinished": self._max_unfinished,
        }


def _read(body: bytes) -> dict[str, Any]:
    """The fields of a request to create a batch.

    Raises:
        Refused: 400, with the reason.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(fields, dict):
        raise Refused(400, "Invalid type for the request body: expected an object.", code="invalid_type")
    for name in fields:
        if name not in _FIELDS:
            raise Refused(400, f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name)
    for name in ("input_file_id", "endpoint", "completion_window"):
        if fields.get(name) is None:
            message = f"Missing required parameter: '{name}'."
            raise Refused(400, message, code="missing_required_parameter", param=name)
        if not isinstance(fields[name], str):
            raise Refused(400, f"Invalid type for '{name}': expected a string.", code="invalid_type", param=name)
    for name, allowed in (("endpoint", tuple(APIS)), ("completion_window", ("24h",))):
        if fields[name] not in allowed:
            known = " and ".join(f"'{each}'" for each in allowed)
            message = f"Invalid value: '{fields[name]}'. Supported values are: {known}."
            raise Refused(400, message, code="invalid_value", param=name)
    _check_metadata(fields.get("metadata"))
    return fields


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        message = "Invalid type for 'metadata': expected an object of strings."
        raise Refused(400, message, code="invalid_type", param="metadata")
    if len(metadata) > _MOST_PAIRS:
        message = f"Invalid 'metadata': {len(metadata)} pairs, and at most {_MOST_PAIRS} are allowed."
        raise Refused(400, message, code="object_above_max_properties", param="metadata")
    for key, value in metadata.items():
        if len(key) > _LONGEST_KEY:
            message = f"Invalid 'metadata': a key has {len(key)} characters, and at most {_LONGEST_KEY} are allowed."
            raise Refused(400, message, code="string_above_max_length", param="metadata")
        if len(value) > _LONGEST_VALUE:
            message = f"Invalid 'metadata.{key}': {len(value)} characters, and at most {_LONGEST_VALUE} are allowed."
            raise Refused(400, message, code="string_above_max_length", param=f"metadata.{key}")
