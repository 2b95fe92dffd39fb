"""drtf serve."""

import importlib.util
import logging
from pathlib import Path

import click

from drtf.errors import DrtfError
from drtf.terminal import show_line

from .options import (
    LocalPath,
    config_options,
    decision_rule_option,
    run_argument,
)

MEGABYTE = 1_000_000
MODULES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@click.command()
@run_argument
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Only this machine reaches the default; 0.0.0.0 is "
    "reached by the whole network.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes any free one.",
)
@click.option(
    "--token-file",
    type=LocalPath(),
    help="File with the bearer token that requests must have. Default: no token.",
)
@click.option(
    "--max-photographs",
    type=click.IntRange(1, 1000),
    default=16,
    show_default=True,
    help="Number of photographs per request.",
)
@click.option(
    "--max-mb",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Size of a request in MB.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(1, 1000),
    default=16,
    show_default=True,
    help="Number of requests that may wait; further ones are refused with status 429. "
    "All of them are in memory.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(1, 3600),
    default=120,
    show_default=True,
    help="Seconds to receive a request, and again to answer it.",
)
@decision_rule_option
@config_options
def serve(
    run: Path,
    host: str,
    port: int,
    token_file: Path | None,
    max_photographs: int,
    max_mb: int,
    max_waiting: int,
    timeout: float,
    decision_rule: Path | None,
    config_source: str,
    overrides: tuple[str, ...],
) -> None:
    """Serve the model in RUN as a web page and a web service.

    The page at / scores photographs that are dropped on it; /docs describes the
    service. A photograph gets the row that drtf score writes. Photographs stay in
    memory, and nothing about them is logged. Stop with Ctrl-C or SIGTERM: requests that
    have arrived are answered first. Requires drtf[serve].
    """
    if missing := [name for name in MODULES if not importlib.util.find_spec(name)]:
        raise DrtfError(
            f"drtf serve requires {', '.join(missing)}: pip install 'drtf[serve]'"
        )
    from drtf.models.run import load_run_config
    from drtf.scoring.scorer import load_scorer
    from drtf.serving.limits import Limits
    from drtf.serving.server import is_loopback, load_token
    from drtf.serving.server import serve as run_server

    config = load_run_config(
        run, config_source, overrides, sections=("score", "labels.patient_pattern")
    )
    token = load_token(token_file) if token_file else ""
    limits = Limits(max_photographs, max_mb * MEGABYTE, max_waiting, timeout)
    scorer = load_scorer(
        run,
        config.score,
        patient_pattern=config.labels.patient_pattern,
        decision_rule=decision_rule,
    )
    if not token and not is_loopback(host):
        show_line(
            f"Warning: whoever reaches {host} can use this service; require a token "
            "with --token-file",
            err=True,
        )
    _log_requests()
    run_server(
        scorer,
        host=host,
        port=port,
        limits=limits,
        token=token,
        on_ready=lambda url: show_line(
            f"{url} scores photographs with {scorer.run.name}. For research only, not "
            "for diagnosis"
        ),
    )


def _log_requests() -> None:
    """Print a line with the time for each request, and nothing of other libraries.

    Their messages may quote a request.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("drtf.serving")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
