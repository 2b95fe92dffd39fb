"""drtf settings."""

import shutil

import click

MAX_WIDTH = 100


@click.command()
@click.argument("section", required=False)
@click.option(
    "--markdown", is_flag=True, help="Print in Markdown, as in docs/settings.md."
)
def settings(section: str | None, markdown: bool) -> None:
    """Print every setting, or those of SECTION, with default and allowed values."""
    from drtf.config import Config
    from drtf.config.messages import did_you_mean
    from drtf.config.reference import format_markdown, format_text

    sections = list(Config.model_fields)
    if section and section not in sections:
        raise click.BadParameter(
            f"unknown section {section!r}{did_you_mean(section, sections)}; the "
            f"sections are {', '.join(sections)}",
            param_hint="SECTION",
        )
    chosen = [section] if section else sections
    if markdown:
        click.echo(format_markdown(chosen), nl=False)
    else:
        width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
        click.echo(format_text(chosen, width=width), nl=False)
