"""Options of several commands, and the exit code for rejected photographs."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from drtf.locations import (
    check_can_write,
    check_location,
    expand_home,
    is_remote,
    shown_location,
)
from drtf.storage import fetch_file
from drtf.terminal import show_line

SOME_REJECTED = 3

Command = Callable[..., Any]


class Override(click.ParamType):
    """A setting and its value, such as `images.size=224`."""

    name = "override"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the text; the library checks the setting and its value."""
        if "=" not in value:  # click would only report what follows
            self.fail(
                f"expected KEY=VALUE without spaces around =, such as images.size=224; "
                f"got {value!r}",
                param,
                ctx,
            )
        return value


def config_options(command: Command) -> Command:
    """Add the options --config and --set to a command."""
    command = click.option(
        "--set",
        "overrides",
        type=Override(),
        metavar="KEY=VALUE",
        multiple=True,
        help="Override one setting, such as train.epochs=5 (repeatable). "
        "`drtf settings` lists them all.",
    )(command)
    return click.option(
        "--config",
        "config_source",
        metavar="NAME|FILE",
        default="",
        help="A preset (mobilenetv2-96, mobilenetv2-224, finetune-96, finetune-224, "
        "notebook-96, eyenet-256, demo) or a TOML file. Default: the settings of RUN, "
        "if the command takes one, or else the default settings.",
    )(command)


class BeamCommand(click.Command):
    """A command whose words after `--` are options of Apache Beam."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words before `--`; those after it become `beam_options`."""
        end = args.index("--") if "--" in args else len(args)
        options = tuple(args[end + 1 :])
        rest = super().parse_args(ctx, args[:end])
        if options and ctx.params["beam_runner"] is None:
            raise click.UsageError("options after -- require --beam-runner")
        ctx.params["beam_options"] = options
        return rest


beam_runner_option = click.option(
    "--beam-runner",
    metavar="NAME",
    help="Run as an Apache Beam pipeline on this runner, such as FnApiRunner, "
    "FlinkRunner or DataflowRunner. Everything after -- is passed to Beam. Requires "
    "drtf[beam].",
)


class GroupedCommand(BeamCommand):
    """A command with groups of options in its help, and rules on combining them."""

    def __init__(
        self,
        *args: Any,
        groups: Mapping[str, Sequence[str]],
        required: Mapping[str, str],
        excluded: Mapping[str, Sequence[str]],
        **attributes: Any,
    ) -> None:
        """Create a command.

        Args:
            *args: As for `click.Command`.
            groups: The names of the options of each group, by its heading. The first
                group also has those that no group names.
            required: The option that another one requires, by its name.
            excluded: The options that another one cannot be combined with, by its name.
            **attributes: As for `click.Command`.
        """
        super().__init__(*args, **attributes)
        self.groups = groups
        self.required = required
        self.excluded = excluded

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words, and refuse options that cannot be combined."""
        rest = super().parse_args(ctx, args)
        given = [
            option.opts[0]
            for option in self.params
            if option.name
            and ctx.get_parameter_source(option.name) == ParameterSource.COMMANDLINE
        ]
        for name, needed in self.required.items():
            if name in given and needed not in given:
                raise click.UsageError(f"{name} requires {needed}", ctx)
        for name, others in self.excluded.items():
            if name in given and (found := [x for x in given if x in others]):
                raise click.UsageError(
                    f"{name} cannot be combined with {' and '.join(found)}", ctx
                )
        return rest

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the options by group."""
        first, *_ = self.groups
        headings = {name: key for key, names in self.groups.items() for name in names}
        records: dict[str, list[tuple[str, str]]] = {key: [] for key in self.groups}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if isinstance(option, click.Option) and record:
                records[headings.get(option.opts[0], first)].append(record)
        for heading, rows in records.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


class LocalPath(click.Path):
    """A local path, which may begin with `~`. A location in a store is refused.

    No shell replaces the `~` of `--out=~/FOLDER` or `"~/FOLDER"`.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the path as a Path, or a stand-in for a location in a store."""
        check_location(value)
        if is_remote(value):
            return self.convert_location(value, param, ctx)
        return super().convert(expand_home(str(value)), param, ctx)

    def convert_location(
        self, location: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return a stand-in for a location in a store."""
        self.fail(f"{shown_location(location)} must be a local path", param, ctx)


class AnyPath(LocalPath):
    """A local path as a Path, or a location in a store as a str."""

    def convert_location(
        self, location: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the location."""
        return location


class OutPath(LocalPath):
    """A local path as a Path, or a location to write to in a store as a str."""

    def convert_location(
        self, location: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the location."""
        check_can_write(location)
        return location


class FetchedPath(LocalPath):
    """A local path, or a location in a store, of which a local copy is returned."""

    def __init__(self, fetch: Callable[[str], Path]) -> None:
        super().__init__()
        self.fetch = fetch

    def convert_location(
        self, location: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the local path; a copy is made now."""
        return self.fetch(location)


def _fetch_dataset(location: str) -> Path:
    from drtf.records.remote import fetch_dataset

    return fetch_dataset(location)


def _fetch_run(location: str) -> Path:
    from drtf.models.stored_run import fetch_run

    return fetch_run(location)


FILE = FetchedPath(fetch_file)
DATASET = FetchedPath(_fetch_dataset)
RUN = FetchedPath(_fetch_run)  # or the folder of an evaluation


class Percentage(click.ParamType):
    """A fraction, written as `5%` or `0.05`."""

    name = "percentage"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the fraction, in [0, 1]."""
        try:
            fraction = float(value.removesuffix("%")) / (100 if "%" in value else 1)
        except ValueError:
            fraction = -1.0
        if not 0 <= fraction <= 1:
            self.fail(f"{value!r} is not a fraction such as 5% or 0.05", param, ctx)
        return fraction


class Part(click.ParamType):
    """One of several parts, such as `2/8`."""

    name = "part"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return the part's number, from 1, and the number of parts."""
        if isinstance(value, tuple):  # click converts a default twice
            return value
        match = re.fullmatch(r"(\d+)/(\d+)", value)
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count:
            self.fail(
                f"{value!r} must be I/N, such as 2/8, with I from 1 to N", param, ctx
            )
        return number, count


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Overwrite existing output in --out."
)


def show_next(*words: object, note: str = "") -> None:
    """Print the command that usually follows, to stderr.

    Args:
        *words: The words after `drtf`, which are quoted for a shell.
        note: What follows the command.
    """
    show_line(f"Next: {shlex.join(['drtf', *map(str, words)])}{note}", err=True)


def path_option(
    name: str, help_text: str, *, required: bool = True, kind: click.Path | None = None
) -> Any:
    """Return an option that takes a path. The library checks whether it exists."""
    return click.option(
        name, type=kind or LocalPath(), required=required, help=help_text
    )


def out_option(help_text: str, *, kind: click.Path | None = None) -> Any:
    """Return a required option --out, by default for a local path."""
    return path_option("--out", help_text, kind=kind)


def images_option(help_text: str, *, required: bool = True) -> Any:
    """Return the option --images: a folder, local or in a store, or a CSV of paths."""
    return path_option("--images", help_text, required=required, kind=AnyPath())


labels_option = path_option(
    "--labels",
    "Label file, local or in a store: a CSV file with the grades, 0-4. Default: the "
    "class folders below --images are the labels.",
    required=False,
    kind=FILE,
)


def shards_option(help_text: str, *, required: bool = True) -> Any:
    """Return the option --shards: a local folder or a location in a store."""
    return path_option("--shards", help_text, required=required, kind=DATASET)


decision_rule_option = path_option(
    "--decision-rule",
    "Folder of an evaluation of RUN, or one that recalibrate wrote, whose threshold "
    "and calibration are used instead of those stored in RUN.",
    required=False,
    kind=RUN,
)
run_argument = click.argument("run", type=RUN)
runs_argument = click.argument(
    "runs", nargs=-1, required=True, type=RUN, metavar="RUN…"
)


def max_rejected_option(help_text: str, *, default: str) -> Any:
    """Return the option --max-rejected: a fraction of the photographs."""
    return click.option(
        "--max-rejected",
        type=Percentage(),
        default=default,
        show_default=True,
        help=help_text,
    )
