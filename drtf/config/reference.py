"""Describe every setting, for `drtf settings` and docs/settings.md."""

import inspect
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from drtf.config.requirements import REQUIREMENTS
from drtf.config.schema import Config, section_model
from drtf.config.values import allowed_values

MARKDOWN_HEAD = """\
# Settings
A config file in TOML has one table per section, and `--set train.epochs=5` overrides
one setting. `drtf settings SECTION` prints a section in the terminal. This page is
written by `make settings`; the texts are in `drtf/config/schema.py`."""


@dataclass(frozen=True)
class Setting:
    """The documentation of one setting.

    Attributes:
        key: Dotted key.
        default: Default value, in TOML.
        values: Allowed values, in words and TOML.
        requires: What it requires of other settings, one sentence each.
        description: What it does; Markdown on one line.
    """

    key: str
    default: str
    values: str
    requires: tuple[str, ...]
    description: str


def list_settings(section: str) -> list[Setting]:
    """Return the settings of a section, in the order of its schema.

    Raises:
        KeyError: If there is no such section.
    """
    model = section_model(section)
    return [
        Setting(
            key=f"{section}.{name}",
            default=json.dumps(field.default),
            values=allowed_values(section, name),
            requires=_requirements(f"{section}.{name}"),
            description=" ".join((field.description or "").split()),
        )
        for name, field in model.model_fields.items()
    ]


def section_description(section: str) -> str:
    """Return the purpose of a section, as paragraphs of Markdown.

    Raises:
        KeyError: If there is no such section.
    """
    return inspect.getdoc(section_model(section)) or ""


def format_text(
    sections: Sequence[str], *, width: int, config: Config | None = None
) -> str:
    """Return the settings of some sections as text for a terminal.

    Args:
        sections: Names of the sections.
        width: Number of columns to wrap the text at.
        config: If given, its values are shown, and the defaults where they differ.
    """
    values_by_section = (config or Config()).model_dump(mode="json")
    lines: list[str] = []
    for section in sections:
        lines += [f"[{section}]", *_wrap(section_description(section), width), ""]
        for setting in list_settings(section):
            name = setting.key.removeprefix(f"{section}.")
            value = json.dumps(values_by_section[section][name])
            default = (
                "" if value == setting.default else f" (default: {setting.default})"
            )
            lines.append(f"{setting.key} = {value}{default}")
            values = f"Values: {setting.values.replace('`', '')}."
            for note in (setting.description, values, *setting.requires):
                lines += _wrap(note, width, indent="    ")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def format_markdown(sections: Sequence[str]) -> str:
    """Return the settings of some sections as a Markdown page, one table per section.

    Args:
        sections: Names of the sections.
    """
    lines = [MARKDOWN_HEAD]
    for section in sections:
        lines += ["", f"## {section}", section_description(section), ""]
        lines += ["| setting | default | values | description |", "|---|---|---|---|"]
        for setting in list_settings(section):
            notes = " ".join([setting.description, *setting.requires])
            cells = (f"`{setting.key}`", f"`{setting.default}`", setting.values, notes)
            row = " | ".join(cell.replace("|", "\\|") for cell in cells)
            lines.append(f"| {row} |")
    return "\n".join(lines) + "\n"


def _requirements(key: str) -> tuple[str, ...]:
    """Return a sentence for each requirement of a setting."""
    sentences = []
    for requirement in REQUIREMENTS:
        if requirement.key == key:
            other = " or ".join(
                f"`{requirement.other}={json.dumps(value)}`"
                for value in requirement.values
            )
            only = requirement.applies_to
            subject = "Requires" if only is None else f"`{json.dumps(only)}` requires"
            sentences.append(f"{subject} {other}.")
    return tuple(sentences)


def _wrap(text: str, width: int, *, indent: str = "") -> list[str]:
    """Wrap each paragraph of a text."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        wrapped = textwrap.wrap(
            paragraph,
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += ["", *wrapped] if lines else wrapped
    return lines
