"""drtf settings."""

import shutil

import click

MAX_WIDTH = 100


@click.command()
@click.argument("name", required=False, metavar="[SECTION|PRESET]")
@click.option(
    "--markdown", is_flag=True, help="Print in Markdown, as in docs/settings.md."
)
def settings(name: str | None, markdown: bool) -> None:
    """Print every setting, or those of SECTION, with default and allowed values.

    With the name of a preset, print its values.
    """
    from drtf.config import Config, list_presets, load_config
    from drtf.config.messages import did_you_mean
    from drtf.config.reference import format_markdown, format_text

    sections = list(Config.model_fields)
    presets = list_presets()
    if name and name not in (*sections, *presets):
        raise click.BadParameter(
            f"unknown section or preset {name!r}"
            f"{did_you_mean(name, [*sections, *presets])}; the sections are "
            f"{', '.join(sections)}; the presets are {', '.join(presets)}",
            param_hint="SECTION|PRESET",
        )
    if markdown and name in presets:
        raise click.UsageError("--markdown shows the defaults: leave out the preset")
    chosen = [name] if name in sections else sections
    if markdown:
        click.echo(format_markdown(chosen), nl=False)
    else:
        width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
        config = load_config(name) if name in presets else None
        click.echo(format_text(chosen, width=width, config=config), nl=False)
