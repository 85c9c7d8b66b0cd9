"""Ids after an edit of the code. They are made with a copy of the package, which is never run."""

import ast
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from nisbench import identity
from nisbench.identity import CORE


def forget() -> None:
    """Have the code's files read again."""
    for cached in (
        identity.kind_file,
        identity._source_hash,
        identity.core_source,
        identity.report_source,
        identity.recorded_core,
    ):
        cached.cache_clear()


class PackageCopy:
    """A copy of the package, in the place of the original wherever ids are made. The core's source is recorded as it is."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "nisbench"
        shutil.copytree(identity.PACKAGE, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(identity, "PACKAGE", self.folder)
        monkeypatch.setattr(identity, "CORE_FILE", self.folder / "core.json")
        self.record()

    def text(self, file: str) -> str:
        return (self.folder / file).read_text()

    @contextmanager
    def edited(self, texts: Mapping[str, str]) -> Iterator[None]:
        """Have these files other texts, for a while."""
        before = {file: self.text(file) for file in texts if (self.folder / file).exists()}
        for file, text in texts.items():
            (self.folder / file).write_text(text)
        forget()
        try:
            yield
        finally:
            for file in texts:
                if file in before:
                    (self.folder / file).write_text(before[file])
                else:
                    (self.folder / file).unlink()
            forget()

    def replaced(self, file: str, old: str, new: str) -> dict[str, str]:
        """The text of a file in which `old` stands once, with `new` in its place."""
        text = self.text(file)
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        return {file: text.replace(old, new)}

    def recorded(self, **versions: int) -> dict[str, str]:
        """``core.json`` with the core's source as it is now, and these versions."""
        known = json.loads(self.text("core.json"))
        content = {
            step: {"version": versions.get(step, known[step]["version"]), "source": identity.core_source(step)}
            for step in CORE
        }
        return {"core.json": json.dumps(content)}

    def record(self) -> None:
        """Record the core's source as the one that made the golden values."""
        forget()
        for file, text in self.recorded().items():
            (self.folder / file).write_text(text)
        forget()


class _Reworded(ast.NodeTransformer):
    """Other docstrings, errors and log lines, and no annotations."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Expr(ast.Constant("Other words."))
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func).split(".")[0] in {"log", "heartbeat"}:
            node.value.args = [ast.Constant("other words")]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [ast.Constant("other words")], []
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = ast.Constant("Other")
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant("Other")
        return self.generic_visit(node)


def reworded(text: str) -> str:
    """A module in which everything that people read is other, and what runs is the same; without comments."""
    return ast.unparse(ast.fix_missing_locations(_Reworded().visit(ast.parse(text))))


class _Recomputed(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body.insert(0, ast.parse("edited = 1.5").body[0])
        return self.generic_visit(node)


def recomputed(text: str) -> str:
    """A module whose functions do something more."""
    return ast.unparse(ast.fix_missing_locations(_Recomputed().visit(ast.parse(text))))
