"""drtf doctor."""

import click

from drtf.terminal import show_line


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
            show_line(f"{fact.name}: {fact.advice}")
    show_line(f"{verdict(facts)}.")
