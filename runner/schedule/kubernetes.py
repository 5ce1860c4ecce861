"""A schedule as a CronJob of Kubernetes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from math import ceil

from runner.schedule.target import Exported, Target, comments

_LONGEST = 52  # what a CronJob adds for its jobs must fit into 63
_POLICIES = {"skip": "Forbid", "queue": "Forbid", "cancel": "Replace"}
_NO_CATCHING_UP_S = 60
_PROJECT = "/project"


def export(target: Target) -> Exported:
    """Return the CronJob.

    Raises:
        SpecErrors: Kubernetes cannot do what the schedule asks for.
    """
    target.refuse_all("Kubernetes")
    target.refuse_both_days("Kubernetes")
    schedule = target.schedule
    name = _name(target.name)
    notes = tuple(_notes(target, name))
    spec = [
        f"schedule: {json.dumps(target.five_fields('Kubernetes'))}",
        f"timeZone: {json.dumps(schedule.zone_name)}",
        f"concurrencyPolicy: {_POLICIES[schedule.overlap]}",
        *(f"startingDeadlineSeconds: {seconds}" for seconds in _deadline(target)),
        *(["suspend: true"] if not schedule.enabled else []),
    ]
    text = f"""\
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {name}
  labels:
    app.kubernetes.io/name: {name}
    app.kubernetes.io/managed-by: runner
spec:
{"".join(f"  {line}" + chr(10) for line in spec)}\
  successfulJobsHistoryLimit: 3
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      # A run that failed is not tried again at once. A pod that was moved away is: it reuses the answers it paid for.
      backoffLimit: 0
      podFailurePolicy:
        rules:
          - action: Ignore
            onPodConditions:
              - type: DisruptionTarget
                status: "True"
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 600
          containers:
            - name: runner
              image: {json.dumps(target.image)}
              workingDir: {_PROJECT}
              command: ["/bin/sh", "-c"]
              args:
                - |
                  runner {shlex.join(target.arguments)} &
                  trap 'kill "$!"' TERM
                  # A signal ends the shell's waiting, not the run.
                  while wait "$!"; code=$?; kill -0 "$!" 2>/dev/null; do :; done
                  # 3: finished, and some rows failed.
                  if [ "$code" -eq 3 ]; then exit 0; fi
                  exit "$code"
{_environment(target, name)}\
              volumeMounts:
                - name: outputs
                  mountPath: {_PROJECT}/outputs
          volumes:
            - name: outputs
              persistentVolumeClaim:
                claimName: {name}-outputs
"""
    then = [
        f"an image {target.image} holds the runner, and the project in {_PROJECT} (another one: --image)",
        f"a PersistentVolumeClaim {name}-outputs keeps the runs",
    ]
    if target.variables:
        words = " ".join(f'--from-literal={key}="${key}"' for key in target.variables)
        then.append(f"the keys: kubectl create secret generic {name}-keys {words}")
    then.append(f"kubectl apply -f {name}.yaml")
    return Exported({f"{name}.yaml": comments(target, notes) + text}, notes, tuple(then))


def _environment(target: Target, name: str) -> str:
    if not target.variables:
        return ""
    lines = [" " * 14 + "env:"]
    for variable in target.variables:
        lines += [
            " " * 16 + f"- name: {variable}",
            " " * 18 + "valueFrom:",
            " " * 20 + "secretKeyRef:",
            " " * 22 + f"name: {name}-keys",
            " " * 22 + f"key: {variable}",
        ]
    return "\n".join(lines) + "\n"


def _deadline(target: Target) -> list[int]:
    schedule = target.schedule
    if schedule.catch_up == "none":
        return [_NO_CATCHING_UP_S]
    # Under 10 seconds nothing may ever start, as the controller looks every 10 seconds.
    return [] if schedule.grace is None else [max(10, ceil(schedule.grace.span.total_seconds()))]


def _name(job: str) -> str:
    """Return a job's name as Kubernetes takes one: lower case letters, digits and `-`."""
    return re.sub(r"[^a-z0-9]+", "-", job.lower())[:_LONGEST].strip("-") or "job"


def _notes(target: Target, name: str) -> Iterator[str]:
    schedule = target.schedule
    if target.variables:
        yield f"The keys come from the secret {name}-keys: {', '.join(target.variables)}."
    yield from target.key_file_notes()
    if schedule.jitter is not None:
        yield f"Kubernetes has no jitter: `jitter: {schedule.jitter}` is left out."
    if schedule.overlap == "queue":
        yield "Kubernetes keeps at most one moment waiting for the run that is going on (Forbid)."
    if schedule.overlap == "skip" and schedule.catch_up != "none":
        yield "A moment that comes while a run is going on begins after it, where its grace has not run out (Forbid)."
    if target.skips and not target.cron.every_hour:
        yield f"Kubernetes leaves out a time that the clock skips: nothing runs for it, next on {target.skips}."
    if target.repeats and not target.cron.every_hour:
        yield f"Kubernetes runs twice where the clock shows a time twice, next on {target.repeats}."
