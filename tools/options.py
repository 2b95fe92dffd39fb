"""Options that several commands share, and the exit code for photographs set aside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

SOME_SET_ASIDE = 3

Command = Callable[..., Any]


def config_options(command: Command) -> Command:
    """Add --config and --set."""
    command = click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override one setting, such as train.epochs=5; may be repeated.",
    )(command)
    return click.option(
        "--config",
        "config_source",
        metavar="NAME|FILE",
        default="",
        help="A preset (mobilenetv2-96, mobilenetv2-96-fast, eyenet-256, demo) or a "
        "TOML file; without it the defaults hold.",
    )(command)


def out_option(help_text: str) -> Callable[[Command], Command]:
    """Add a required --out."""
    return click.option(
        "--out", type=click.Path(path_type=Path), required=True, help=help_text
    )


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace what an earlier call wrote to --out."
)


def path_option(name: str, help_text: str, *, required: bool = True) -> Any:
    """Add an option that takes a path; the library says what is wrong with it."""
    return click.option(
        name, type=click.Path(path_type=Path), required=required, help=help_text
    )
