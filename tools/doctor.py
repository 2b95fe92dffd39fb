"""drtf doctor."""

import click


@click.command()
def doctor() -> None:
    """Tell what this machine offers, and what to do about each thing missing."""
    from drtf.models.machine import machine_facts

    from .tables import show_table

    facts = machine_facts()
    show_table(
        "This machine", ("what", "found"), [(fact.name, fact.found) for fact in facts]
    )
    for fact in facts:
        if fact.advice:
            click.echo(f"{fact.name}: {fact.advice}")
