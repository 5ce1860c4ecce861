"""Watches a run from outside, and tells people when the job's state changes with it. It never fails a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from runner import freshness, runs
from runner.clock import Clock
from runner.errors import Exit, LockedError
from runner.execution import Outcome
from runner.load import Job
from runner.manifest import Manifest, utc_text
from runner.notify import message, sending
from runner.notify.message import Report
from runner.notify.sending import LIMIT_S, Message, Round
from runner.notify.state import JobState, State, held
from runner.notify_section import Event, NotifySpec, Target, UnsetVariable, resolve

LOG_VARIABLE = "RUNNER_LOG"
"""Names the file that this process's output goes to; its tail is part of what people are told."""

Warn = Callable[[str], None]


class Watch:
    """One session of a run, seen by those who want to hear of it.

    Args:
        base: the job's folder under `outputs/`.
        environ: usually `os.environ`.
        warn: says that somebody could not be told; what it is given holds no address.
    """

    def __init__(self, job: Job, base: Path, clock: Clock, environ: Mapping[str, str], warn: Warn) -> None:
        spec = job.spec.notify or NotifySpec()
        self._job = job
        self._base = base
        self._clock = clock
        self._environ = environ
        self._warn = warn
        self._silent = spec.idle or (job.rehearsal and not spec.rehearsals)
        self._spec = spec
        self._log = Path(environ[LOG_VARIABLE]) if environ.get(LOG_VARIABLE) else None
        self._pings = Round()

    def begin(self) -> None:
        """Say at once whom nothing will reach, and send the first ping, which nobody waits for."""
        if self._silent:
            return
        for name, written in _addresses(self._spec):
            try:
                resolve(written, self._environ)
            except UnsetVariable as error:
                self._warn(f"{name} will not be told: {error.message}")
        self._ping("/start")

    def ended(self, outcome: Outcome) -> Outcome:
        """Tell how a run ended. An interrupted one, and one whose batches are on their way, says nothing of the job."""
        state = state_of(outcome)
        if self._silent or state is None or not _is_newest(outcome.folder, self._base):
            return outcome
        report = message.of_run(outcome.manifest, outcome.folder, self._log)
        failures = self._tell(state, report, outcome.manifest.run)
        if failures and outcome.manifest.sessions:
            outcome.manifest.sessions[-1].warnings += failures
            _saved(outcome.manifest, outcome.folder)
        return outcome

    def failed(self, error: BaseException) -> None:
        """Tell that a run could not begin, or came to an end that nobody meant. Another run's lock is no failure."""
        if self._silent or isinstance(error, LockedError) or not isinstance(error, Exception):
            return
        said = error if isinstance(getattr(error, "exit_code", None), Exit) else f"a bug: {type(error).__name__}"
        job = self._job
        self._tell("failing", message.of_no_run(job.spec.name, job.path, job.root.resolve(), said, self._log), None)

    def _tell(self, state: State, report: Report, run: str | None) -> list[str]:
        """Ping, tell each target what is new to it, and return what went wrong; that is said as well."""
        self._ping("" if state == "ok" else "/fail")
        wrong = tell(
            self._spec, state, report, run, self._base, self._clock, self._environ, rehearsal=self._job.rehearsal
        )
        wrong += [f"the ping failed: {why}" for why in dict.fromkeys(self._pings.failures().values())]
        for text in wrong:
            self._warn(text)
        return wrong

    def _ping(self, ending: str) -> None:
        if self._spec.ping is None:
            return
        try:
            address = resolve(self._spec.ping, self._environ)
        except UnsetVariable:
            return  # that was said when the run began
        before = self._pings.failures() if ending != "/start" else {}  # a start that overtakes the end says it runs
        if not before:
            self._pings.begin(f"notify.ping{ending}", partial(sending.ping, address, ending))


@contextmanager
def watched(job: Job, base: Path, clock: Clock, environ: Mapping[str, str], warn: Warn) -> Iterator[Watch]:
    """Watch a session of a run from its first step; what escapes is told, and goes on."""
    watch = Watch(job, base, clock, environ, warn)
    watch.begin()
    try:
        yield watch
    except Exception as error:
        watch.failed(error)
        raise


def state_of(outcome: Outcome) -> State | None:
    """Return how the job is after a run; None: that run does not tell."""
    manifest = outcome.manifest
    if outcome.idle or manifest.status in ("interrupted", "waiting", "running"):
        return None
    if manifest.status == "finished":
        return "ok" if freshness.is_success(manifest) else "partial"
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
) -> list[str]:
    """Note how a job is now, and tell each target what is new to it.

    Returns:
        Who could not be told, and why, without their addresses.
    """
    try:
        with held(base, rehearsal=rehearsal) as known:
            known.turn(state, utc_text(clock.now_us()), run)
            return _tell_targets(spec, known, report, environ)
    except OSError as error:  # a full disk; the run has its own message for that
        return [f"nobody was told: {error.strerror or type(error).__name__}"]


def _tell_targets(spec: NotifySpec, known: JobState, report: Report, environ: Mapping[str, str]) -> list[str]:
    sent = Round()
    wrong: dict[str, str] = {}
    for name, target in _named(spec):
        if (event := known.event_for(target)) is not None:
            wrong |= _begin(sent, name, target, event, known.state, report, environ)
    wrong |= sent.failures()
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
    try:
        address = resolve(target.written, environ)
    except UnsetVariable as error:
        return {name: error.message}
    ready = Message(report.subject(event), report.body(), report.as_json(event, state), good=state == "ok")
    sent.begin(name, partial(sending.send, address, ready))
    return {}


def send_test(
    spec: NotifySpec, report: Report, environ: Mapping[str, str], limit_s: float = LIMIT_S
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
    return {name: wrong.get(name) for name, _ in _addresses(spec)}


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


def _addresses(spec: NotifySpec) -> list[tuple[str, str]]:
    found = [(name, target.written) for name, target in _named(spec)]
    return [*found, *([("notify.ping", spec.ping)] if spec.ping is not None else [])]


def _is_newest(folder: Path, base: Path) -> bool:
    """Whether no run was begun after this one: mending an old run says nothing of how the job is now."""
    rehearsal = runs.is_rehearsal(folder)
    return not any(
        other.name > folder.name for other in runs.runs_in(base) if runs.is_rehearsal(other) == rehearsal
    )


def _saved(manifest: Manifest, folder: Path) -> None:
    try:
        manifest.save(folder)
    except OSError:
        return  # the disk is full: the warning was said, and the run's rows matter more
