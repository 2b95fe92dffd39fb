import json

import pytest

from drtf.seals import SEAL, dump_sealed, is_intact

CONTENTS = {"b": [1.5, None, "ü"], "a": {"z": 1e-300, "y": 7}}


def test_a_sealed_text_is_intact_with_or_without_its_seal():
    text = dump_sealed(CONTENTS)
    assert is_intact(text, json.loads(text))
    assert is_intact(text, CONTENTS)


@pytest.mark.parametrize("old", ["1.5", "null", "7", SEAL, " ", "\n", "a", "}"])
def test_a_text_is_not_intact_after_a_change(old):
    text = dump_sealed(CONTENTS)
    changed = text.replace(old, f"{old} " if old in " \n}" else "3", 1)
    assert changed != text
    try:
        contents = json.loads(changed)
    except ValueError:
        return  # it is refused as JSON
    assert not is_intact(changed, contents)


def test_equal_contents_in_another_order_are_not_intact():
    text = dump_sealed(dict(reversed(CONTENTS.items())))
    assert not is_intact(text, CONTENTS)
