"""Builds and scorings whose parts Apache Beam hands out to workers.

Beam runs functions of drtf that work in any order, more than once and on any host; what
they write is the same as on one machine.
"""

import functools
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from drtf.building.build import BuildReport
from drtf.building.finished import load_finished
from drtf.building.merge import merge_tasks
from drtf.building.tasks import plan_tasks, run_task
from drtf.config import Config, ScoreConfig
from drtf.errors import DrtfError
from drtf.labels.sources import Source
from drtf.models.stored_run import local_run
from drtf.photographs.listing import list_photographs
from drtf.scoring.score_table import part_path
from drtf.scoring.scoring import ScoreReport, check_request, score, table_location
from drtf.scoring.table_files import Location, has_file, remove_file
from drtf.workers import run_in_process

# Scoring them takes minutes; starting TensorFlow and loading a run takes seconds.
PHOTOGRAPHS_PER_PART = 1000
# How Python shows an error of drtf at the end of a traceback, and Beam its step.
DRTF_ERROR = r"^drtf\.errors\.\w+: (.*?)(?: \[while running .*)?$"
# The name that FnApiRunner gives the thread that waits for a worker's process.
WAITING_THREAD = "run_worker"

Task = tuple[int, int]


def build_with_beam(
    sources: Sequence[Source],
    out: Location,
    *,
    config: Config,
    max_rejected: float,
    runner: str,
    options: Sequence[str],
) -> BuildReport:
    """Convert labeled photographs to a dataset of shards, each shard in a Beam task.

    The dataset is byte for byte the one that `build_shards` builds. The same call
    resumes a build that failed.

    Args:
        sources: Folders of photographs, which all workers must reach, and their labels.
        out: The dataset, in a folder that all workers share or in a store.
        config: As for `build_shards`.
        max_rejected: Fraction of the photographs, in [0, 1], that may be rejected.
        runner: Name of the Beam runner.
        options: Options of Beam, such as `--direct_num_workers=2`.

    Raises:
        LabelError: If a source's labels and photographs do not match.
        StorageError: If an object store fails.
        DrtfError: If Beam is missing, or a task fails.
    """
    _check_beam(runner)
    plan = plan_tasks(sources, out, config=config)
    if load_finished(out) is None:
        convert = functools.partial(
            _convert_shards, out=out, num_workers=config.build.num_workers or 1
        )
        run_tasks(convert, len(plan.shards), runner=runner, options=options)
    merged = merge_tasks(out, max_rejected=max_rejected)
    return BuildReport(merged.manifest, plan, is_reused=merged.plan is None)


def score_with_beam(
    run_folder: Location,
    images: Location,
    *,
    out: Location,
    config: ScoreConfig,
    patient_pattern: str | None = None,
    overwrite: bool = False,
    form: str = "table",
    decision_rule: Location | None = None,
    runner: str,
    options: Sequence[str],
    photographs_per_part: int = PHOTOGRAPHS_PER_PART,
) -> ScoreReport:
    """Score photographs, each part of them in a Beam task.

    The table is byte for byte the one that `score` writes. The same call resumes a
    scoring that failed: parts that are complete are kept.

    Args:
        run_folder: The run, in a folder that all workers share or in a store.
        images: As for `score`; all workers must reach the photographs.
        out: The table, in a folder that all workers share or in a store.
        config: As for `score`.
        patient_pattern: As for `score`.
        overwrite: Whether to replace `out` and its parts.
        form: As for `score`.
        decision_rule: As for `score`.
        runner: Name of the Beam runner.
        options: Options of Beam, such as `--direct_num_workers=2`.
        photographs_per_part: Number of photographs in each task.

    Raises:
        LabelError: If there are no photographs.
        StorageError: If an object store fails.
        DrtfError: If Beam is missing, a task fails, or `score` would refuse the call.
    """
    _check_beam(runner)
    check_request(out, config, form=form)
    num_photographs = len(list_photographs(images))
    # One part would be the table itself.
    num_parts = max(2, math.ceil(num_photographs / photographs_per_part))
    table = table_location(out, form)
    call = functools.partial(
        _score,
        run_folder,
        images,
        out=out,
        config=config.model_copy(update={"num_workers": config.num_workers or 1}),
        patient_pattern=patient_pattern,
        overwrite=overwrite,
        form=form,
        decision_rule=decision_rule,
    )
    if overwrite or not has_file(table):
        part = functools.partial(_score_part, call=call)
        run_tasks(part, num_parts, runner=runner, options=options)
    # Each task has just compared the photographs of its part.
    report = call(merge=num_parts, compare_files=False)
    for number in range(1, num_parts + 1):
        remove_file(part_path(table, number, num_parts))
    return report


def _convert_shards(task: Task, *, out: Location, num_workers: int) -> None:
    run_task(out, task, num_workers=num_workers)


def _score(
    run_folder: Location,
    images: Location,
    *,
    decision_rule: Location | None,
    **request: Any,
) -> ScoreReport:
    """Call `score` with the run of this worker."""
    rule = None if decision_rule is None else _local_run(decision_rule)
    return score(_local_run(run_folder), images, decision_rule=rule, **request)


# A worker fetches a run once for all of its tasks.
_local_run = functools.cache(local_run)


def _score_part(part: Task, *, call: Callable[..., ScoreReport]) -> None:
    call(part=part)


def _check_beam(runner: str) -> None:
    """Check that Beam is installed and a runner is named.

    Raises:
        DrtfError: If not.
    """
    if find_spec("apache_beam") is None:
        raise DrtfError(
            "--beam-runner requires Apache Beam: pip install 'drtf[beam]' in a new "
            "environment"
        )
    if not runner.strip():
        raise DrtfError(
            "--beam-runner is empty; name a runner, such as FnApiRunner, FlinkRunner "
            "or DataflowRunner"
        )


def run_tasks(
    function: Callable[[Task], None],
    num_tasks: int,
    *,
    runner: str,
    options: Sequence[str],
) -> None:
    """Call a function with each task, (1, N) to (N, N), in a Beam pipeline.

    Beam runs in a separate process, which is ended if Beam waits forever.

    Raises:
        DrtfError: If a task or Beam fails.
    """
    run_in_process(_run_pipeline, function, num_tasks, runner, list(options))


def _run_pipeline(
    function: Callable[[Task], None], num_tasks: int, runner: str, options: list[str]
) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineState

    threading.excepthook = _end_if_worker_died
    tasks = [(number, num_tasks) for number in range(1, num_tasks + 1)]
    try:
        pipeline = beam.Pipeline(runner=runner, options=PipelineOptions(options))
        # Without the reshuffle, one worker would run all tasks.
        pipeline | beam.Create(tasks) | beam.Reshuffle() | "Run" >> beam.Map(function)
        state = pipeline.run().wait_until_finish()
    except SystemExit as error:  # of its parser, which has printed why
        raise DrtfError(
            f"Apache Beam refuses the options {' '.join(options)} after --; see its "
            "message above"
        ) from error
    except Exception as error:
        raise DrtfError(_describe_failure(error)) from error
    if state != PipelineState.DONE:
        raise DrtfError(f"the Beam pipeline ended in the state {state}; see its log")


def _end_if_worker_died(failure: threading.ExceptHookArgs) -> None:
    """End this process if a worker's process died; FnApiRunner would wait forever."""
    threading.__excepthook__(failure)
    if failure.thread and failure.thread.name == WAITING_THREAD:
        print(f"A Beam worker died: {failure.exc_value}", file=sys.stderr, flush=True)
        os._exit(1)


def _describe_failure(error: Exception) -> str:
    """Return the reason for a failed pipeline as one line.

    A runner's error contains the traceback of the worker as text.
    """
    text = str(error).strip() or type(error).__name__
    # The last one: others may have caused it.
    if own := re.findall(DRTF_ERROR, text, re.MULTILINE):
        return f"a Beam task failed: {own[-1]}"
    return f"the Beam pipeline failed: {text.splitlines()[-1].strip()}"
