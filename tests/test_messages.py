"""Every text that drtf shows, in one golden file, so that a review sees all of them.

Other tests check the facts in a message (keys, paths, values), never its wording. After
a text was changed, `make messages` updates the file: read the difference.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("messages.txt")
WORDS = re.compile(r"\w[,.:;]? \w")
MARKUP = {"drtf/page.py"}


def list_texts() -> str:
    """Return the texts in the source of each module, f-strings with their fields."""
    sections = []
    for path in sorted([*ROOT.glob("drtf/**/*.py"), *ROOT.glob("tools/*.py")]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [text for text in find_texts(tree) if WORDS.search(text)]
        module = path.relative_to(ROOT).as_posix()
        if texts and module not in MARKUP:
            sections.append("\n".join([f"[{module}]", *texts]))
    return "\n\n".join(sections) + "\n"


def find_texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
        return  # a pattern
    if isinstance(node, ast.JoinedStr | ast.Constant):
        yield render(node).strip().replace("\n", "\\n")
        return
    for child in ast.iter_child_nodes(node):
        yield from find_texts(child)


def render(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return "".join(map(render, getattr(node, "values", ())))


def test_texts_are_those_of_the_golden_file():
    assert list_texts() == GOLDEN.read_text(encoding="utf-8")


if __name__ == "__main__":
    GOLDEN.write_text(list_texts(), encoding="utf-8")
