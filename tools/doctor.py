"""drtf doctor."""

import click


@click.command()
def doctor() -> None:
    """Report what this machine has, and what to do if something is missing."""
    from drtf.models.machine import machine_facts, verdict

    from .tables import show_table

    facts = machine_facts()
    show_table(
        "This machine", ("what", "value"), [(fact.name, fact.value) for fact in facts]
    )
    for fact in facts:
        if fact.advice:
            click.echo(f"{fact.name}: {fact.advice}")
    click.echo(f"{verdict(facts)}.")
