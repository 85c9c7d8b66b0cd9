"""The version of the code behind a result: a hash of the syntax of all modules that a step uses."""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import nisbench
from nisbench.errors import NisbenchError

RESULT_FREE = (
    "nisbench.params",
    "nisbench.runs",
    "nisbench.code_version",
    "nisbench.errors",
    "nisbench.console",
    "nisbench.machine",
    "nisbench.files",
    "nisbench.records",
)
"""Modules that cannot change a number: parameters enter the ids by value, and the others report, place and lock."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; floats in their shortest exact form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@cache
def code_version(modules: tuple[str, ...]) -> str:
    """Hash of the syntax trees of `modules` and of all they import from nisbench, without comments and docstrings."""
    pending, trees = list(modules), dict[str, str]()
    while pending:
        module = pending.pop()
        if module in trees or any(module == m or module.startswith(m + ".") for m in RESULT_FREE):
            continue
        tree, imported = _module_tree(module)
        trees[module] = tree
        package = module.rpartition(".")[0]
        pending += [*imported, package] if "." in package else imported
    together = ",".join(f"{canonical_json(module)}:{trees[module]}" for module in sorted(trees))
    return hashlib.sha256(f"{{{together}}}".encode()).hexdigest()


@cache
def _module_tree(module: str) -> tuple[str, list[str]]:
    """A module's syntax as JSON, which is the same in every Python version, and the nisbench modules it imports."""
    path = module_path(module)
    if path is None:
        raise NisbenchError(f"There is no module {module}.")
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names if alias.name.startswith("nisbench.")]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise NisbenchError(f"{path}:{node.lineno}: import from nisbench by full name, or run ids miss the code")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nisbench":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            imported += [name if module_path(name) else str(node.module) for name in names]
    return canonical_json(_syntax(tree)), [name for name in imported if name != "nisbench"]


def module_path(module: str) -> Path | None:
    """The source file of a nisbench module, or None."""
    base = Path(nisbench.__file__).parent.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _syntax(node: Any) -> Any:
    """`ast.dump` without positions, docstrings and empty fields, whose set differs between Python versions."""
    if isinstance(node, ast.AST):
        fields = {name: _syntax(value) for name, value in ast.iter_fields(node) if name not in ("kind", "type_comment")}
        body = fields.get("body")
        if isinstance(body, list) and isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            fields["body"] = [
                _syntax(item)
                for item in node.body
                if not (
                    isinstance(item, ast.Expr)
                    and isinstance(item.value, ast.Constant)
                    and isinstance(item.value.value, str)
                )
            ]
        return {"": type(node).__name__, **{name: value for name, value in fields.items() if value not in (None, [])}}
    if isinstance(node, list):
        return [_syntax(item) for item in node]
    return node if isinstance(node, str | int | bool | type(None)) else {"": type(node).__name__, "repr": repr(node)}
