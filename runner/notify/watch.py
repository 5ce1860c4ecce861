"""Watches a run from outside, and tells people when the job's state changes with it. It never fails a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

from runner import freshness, runs
from runner.clock import Clock
from runner.errors import LockedError, RunnerError
from runner.execution import Outcome
from runner.history import is_success
from runner.load import Job, find_root
from runner.manifest import utc_text
from runner.notify import message, sending
from runner.notify.message import Report
from runner.notify.sending import Message, Round
from runner.notify.state import JobState, State, held
from runner.notify_section import Event, NotifySpec, Target, UnsetVariable, resolve
from runner.overrides import is_trial
from runner.spec import name_of
from runner.validation import check
from runner.yaml_source import read

LOG_VARIABLE = "RUNNER_LOG"
"""Names the file that this process's output goes to; its tail is part of what people are told."""

Warn = Callable[[str], None]


class Watch:
    """One session of a run, seen by those who want to hear of it.

    Args:
        base: the job's folder under `outputs/`.
        environ: usually `os.environ`.
        warn: says that somebody could not be told; what it is given holds no address.
        silent: tell nobody. So it is anyway where the job has run for a later date, and of a trial (`--limit`).
    """

    def __init__(
        self, job: Job, base: Path, clock: Clock, environ: Mapping[str, str], warn: Warn, *, silent: bool = False
    ) -> None:
        spec = job.spec.notify or NotifySpec()
        self._job = job
        self._base = base
        self._clock = clock
        self._environ = environ
        self._warn = warn
        unwanted = spec.idle or (job.rehearsal and not spec.rehearsals)
        self._silent = silent or unwanted or is_trial(job.overrides) or _is_past(job, base)
        self._spec = spec
        self._log = Path(environ[LOG_VARIABLE]) if environ.get(LOG_VARIABLE) else None
        self._start = Round()

    def begin(self) -> None:
        """Say at once whom nothing will reach, and send the first ping, which nobody waits for."""
        if self._silent:
            return
        for name, written in addresses(self._spec):
            try:
                resolve(written, self._environ)
            except UnsetVariable as error:
                self._warn(f"{name} will not be told: {error.message}")
        _ping(self._start, self._spec, "/start", self._environ)

    def ended(self, outcome: Outcome) -> Outcome:
        """Tell how a run ended. An interrupted one, and one whose batches are on their way, says nothing of the job."""
        state = state_of(outcome)
        if self._silent or state is None or not _is_newest(outcome.folder, self._base):
            return outcome
        manifest = outcome.manifest
        failures = self._tell(state, manifest.run, partial(message.of_run, manifest, outcome.folder, self._log))
        if failures and manifest.sessions:
            manifest.sessions[-1].warnings += failures
            with suppress(OSError):  # a full disk: the warning was said, and the run's rows matter more
                manifest.save(outcome.folder)
        return outcome

    def failed(self, error: Exception) -> None:
        """Tell that a run could not begin, or that it ended as nobody meant it to. Another run's lock is no failure."""
        if not self._silent and not isinstance(error, LockedError):
            job = self._job
            self._tell("failing", None, partial(message.of_no_run, job.spec.name, job.path, job.root, error, self._log))

    def _tell(self, state: State, run: str | None, report: Callable[[], Report]) -> list[str]:
        """Ping, tell each target what is new to it, and return what went wrong; that is said as well."""
        try:
            sent = Round(after=self._start)
            _ping(sent, self._spec, "" if state == "ok" else "/fail", self._environ)
            wrong = tell(
                self._spec, state, report(), run, self._base, self._clock, self._environ,
                rehearsal=self._job.rehearsal, sent=sent,
            )  # fmt: skip
            wrong += [f"{name} was not told: {why}" for name, why in self._start.failures(0).items()]
        except Exception as error:  # noqa: BLE001 - a mistake of ours in a message must not fail a run that is done
            wrong = [f"nobody was told: {type(error).__name__}"]
        for text in wrong:
            self._warn(text)
        return wrong


@contextmanager
def watched(
    job: Job, base: Path, clock: Clock, environ: Mapping[str, str], warn: Warn, *, silent: bool = False
) -> Iterator[Watch]:
    """Watch a session of a run from its first step; what escapes is told, and goes on."""
    watch = Watch(job, base, clock, environ, warn, silent=silent)
    watch.begin()
    try:
        yield watch
    except Exception as error:
        watch.failed(error)
        raise


def tell_of_broken_file(
    job_file: Path,
    error: RunnerError,
    outputs: Path | None,
    clock: Clock,
    environ: Mapping[str, str],
    warn: Warn,
    *,
    made_from: Path | None = None,
) -> None:
    """Tell that a job cannot be loaded, where its file can at least be read that far. For runs that nobody looks at.

    Args:
        error: why it cannot.
        outputs: where run folders go; None: `outputs/` in the project root.
        made_from: what people know the job by, where the file is a copy.
    """
    try:
        source = read(job_file)
        spec, _ = check(NotifySpec, source, source.data.get("notify", {}), ("notify",))
    except RunnerError:
        return
    if spec is None or spec.idle:
        return
    shown = made_from or job_file
    root = find_root(shown)
    job = name_of(source.data, job_file)
    report = message.of_no_run(job, shown, root, error, None)
    sent = Round()
    _ping(sent, spec, "/fail", environ)
    for text in tell(spec, "failing", report, None, (outputs or root / runs.OUTPUTS) / job, clock, environ, sent=sent):
        warn(text)


def state_of(outcome: Outcome) -> State | None:
    """Return how the job is after a run; None: that run does not tell."""
    manifest = outcome.manifest
    if outcome.idle or manifest.status in ("interrupted", "waiting", "running"):
        return None
    if manifest.status == "finished":
        return "ok" if is_success(manifest) else "partial"
    return "budget" if (manifest.stopped_by or {}).get("kind") == "budget" else "failing"


def tell(
    spec: NotifySpec,
    state: State,
    report: Report,
    run: str | None,
    base: Path,
    clock: Clock,
    environ: Mapping[str, str],
    *,
    rehearsal: bool = False,
    sent: Round | None = None,
) -> list[str]:
    """Note how a job is now, and tell each target what is new to it.

    Args:
        run: the run that shows it; None: there is none.
        base: the job's folder under `outputs/`.
        sent: what is on its way already.

    Returns:
        Who could not be told, and why, without their addresses.
    """
    sent = sent or Round()
    wrong: list[str] | None = None
    try:
        with held(base, rehearsal=rehearsal) as known:
            known.turn(state, utc_text(clock.now_us()), run)
            wrong = _tell_targets(spec, known, report, environ, sent)
            return wrong
    except OSError as error:  # a full disk is just what people want to hear of
        if wrong is None:
            wrong = _tell_targets(spec, JobState(state), report, environ, sent)
        return [*wrong, f"what was told cannot be kept, and may be told again: {error.strerror or 'unknown reason'}"]


def _tell_targets(
    spec: NotifySpec, known: JobState, report: Report, environ: Mapping[str, str], sent: Round
) -> list[str]:
    unset: dict[str, str] = {}
    for name, target in _named(spec):
        if (event := known.event_for(target)) is not None:
            unset |= _begin(sent, name, target, event, known.state, report, environ)
    wrong = unset | sent.failures()
    for name, target in _named(spec):
        known.settle(target, delivered=name not in wrong)
    return [f"{name} was not told: {why}" for name, why in wrong.items()]


def _begin(
    sent: Round,
    name: str,
    target: Target,
    event: Event | None,
    state: State,
    report: Report,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """Begin to send a message; return why that cannot be, by the target's name."""
    try:
        address = resolve(target.written, environ)
    except UnsetVariable as error:
        return {name: error.message}
    ready = Message(report.subject(event), report.body(), report.as_json(event, state), good=state == "ok")
    sent.begin(name, partial(sending.send, address, ready))
    return {}


def _ping(sent: Round, spec: NotifySpec, ending: str, environ: Mapping[str, str]) -> None:
    """Begin to ping, after what `sent` waits for: a start that overtakes the end would say that the run goes on."""
    if spec.ping is None:
        return
    name = "notify.ping at the start" if ending == "/start" else "notify.ping"
    with suppress(UnsetVariable):  # that was said when the run began
        sent.begin(name, partial(sending.ping, resolve(spec.ping, environ), ending), in_order=True)


def send_test(
    spec: NotifySpec, report: Report, environ: Mapping[str, str], limit_s: float = 20.0
) -> dict[str, str | None]:
    """Send a test to every target, and a success to the ping; return why each failed, or None, by its name."""
    sent = Round()
    wrong: dict[str, str] = {}
    for name, target in _named(spec):
        wrong |= _begin(sent, name, target, None, "ok", report, environ)
    if spec.ping is not None:
        try:
            sent.begin("notify.ping", partial(sending.ping, resolve(spec.ping, environ)))
        except UnsetVariable as error:
            wrong["notify.ping"] = error.message
    wrong |= sent.failures(limit_s)
    return {name: wrong.get(name) for name, _ in addresses(spec)}


def tell_if_late(
    job: Job,
    base: Path,
    clock: Clock,
    environ: Mapping[str, str],
    warn: Warn,
    *,
    allowed: timedelta | None = None,
    since_us: int | None = None,
) -> bool:
    """Tell that a job's last success is too old, once until it is well again. To be called now and then by a service.

    Args:
        base: the job's folder under `outputs/`.
        allowed: how old it may be; default: the job's `notify.late_after`.
        since_us: when successes were first expected, in microseconds since 1970; None: a job without any is not late.

    Returns:
        Whether it is late.
    """
    spec = job.spec.notify or NotifySpec()
    allowed = allowed or spec.late_after_span
    last = freshness.last_success(runs.runs_in(base))
    from_us = max((at for at in (last.at_us if last else None, since_us) if at is not None), default=None)
    now_us = clock.now_us()
    if from_us is None or now_us - from_us <= allowed / timedelta(microseconds=1):
        return False
    if spec.to:
        age_s = (now_us - last.at_us) / 1e6 if last else None
        report = message.of_lateness(job.spec.name, base.resolve(), last, age_s, _short(allowed))
        for text in tell(spec, "late", report, last.run if last else None, base, clock, environ):
            warn(text)
    return True


def _short(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours:.4g} h"


def _named(spec: NotifySpec) -> list[tuple[str, Target]]:
    return [(f"notify.to[{index}]", target) for index, target in enumerate(spec.to)]


def addresses(spec: NotifySpec) -> list[tuple[str, str]]:
    """Return what the job tells: the name of each address, and how it is written."""
    found = [(name, target.written) for name, target in _named(spec)]
    return [*found, *([("notify.ping", spec.ping)] if spec.ping is not None else [])]


def _is_newest(folder: Path, base: Path) -> bool:
    """Whether no run is newer than this one: mending an old run says nothing of how the job is now."""
    mine = runs.turn_of(folder)
    return not any(runs.turn_of(other) > mine for other in _alike(base, rehearsal=runs.is_rehearsal(folder)))


def _is_past(job: Job, base: Path) -> bool:
    """Whether the job has a run for a later date."""
    return any(runs.date_of(other) > job.run_date.isoformat() for other in _alike(base, rehearsal=job.rehearsal))


def _alike(base: Path, *, rehearsal: bool) -> list[Path]:
    return [folder for folder in runs.runs_in(base) if runs.is_rehearsal(folder) == rehearsal]
