"""The pages: what they link to, name and show exists and works."""

import ast
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml

from nisbench.cli import app
from nisbench.params.base import Settings
from nisbench.params.datasets import BlockSettings, Member, RandomSplit
from nisbench.params.kinds import OWN, VARIABLE, kinds, load_plugin
from nisbench.params.loading import load
from nisbench.params.methods import MDEPair, ProjectedSetting
from nisbench.params.studies import DatasetReference, Grid, Params, Study
from nisbench.params.training import Training

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:^|[&;|$(] ?|=\S+ )nisbench ([a-z][a-z-]*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
REPOSITORY = "https://github.com/nisbench/nisbench/blob/main/"
LINE_OF_CODE = 90
OWN_FOLDERS = ("src/", "docs/", "params/", "tests/", "workflow/", "benchmarks/")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(text_of(page)) if found == language]


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub and the site name them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@each_page
def test_links_and_pictures_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if path.startswith(REPOSITORY):
            assert (ROOT / path.removeprefix(REPOSITORY)).exists(), link
        elif not path.startswith(("http://", "https://", "mailto:")):
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@each_page
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`([^`\s]+)`", prose(page)):
        path = name.partition("::")[0]
        if path.startswith(OWN_FOLDERS) and not re.search(r"[*<>{}]|STUDY|ID", path):
            assert (ROOT / path).exists(), name


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_commands_that_are_named_exist(page):
    shell = "\n".join(code for language, code in FENCE.findall(text_of(page)) if language in {"sh", "console"})
    lines = [*re.sub(r" #.*", "", shell).splitlines(), *re.findall(r"`([^`\n]+)`", prose(page))]
    named = {name for line in lines for name in COMMAND.findall(line)}
    assert named - set(typer.main.get_command(app).commands) == set()


@each_page
def test_lines_of_code_fit_a_page(page):
    lines = [line for _, code in FENCE.findall(text_of(page)) for line in code.splitlines()]
    long = [line for line in lines if len(line) > LINE_OF_CODE]
    assert long == []


def test_the_profile_s_lines_that_are_shown_are_those_of_our_own():
    (shown,) = blocks(ROOT / "docs" / "how-to" / "run-with-dvc.md", "text")
    assert yaml.safe_load(shown).items() <= yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text()).items()


PLUGIN = re.compile(r"# (\w+\.py)\n")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory) -> dict[Path, list[Path]]:
    """The plug-ins that pages show, as files: Python code that begins with a file's name."""
    folder = tmp_path_factory.mktemp("plugins")
    found: dict[Path, list[Path]] = {}
    for page in PAGES:
        for code in blocks(page, "python"):
            if match := PLUGIN.match(code):
                found.setdefault(page, []).append(folder / match[1])
                (folder / match[1]).write_text(code, encoding="utf-8")
    return found


def test_plugins_that_are_shown_can_be_loaded(plugins):
    files = [file for of_page in plugins.values() for file in of_page]
    assert len({file.name for file in files}) == len(files) > 1
    for file in files:
        (kind,) = load_plugin(file)
        assert kind.model_validate(kind.module().EXAMPLE)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.name)
def test_parameters_that_are_shown_are_valid(page, plugins, tmp_path, monkeypatch):
    """Each block is an overlay. The plug-ins that it needs are on the same page. One study is enough to merge it over."""
    folder = tmp_path / "params"
    shutil.copytree(ROOT / "params", folder, ignore=shutil.ignore_patterns("studies"))
    (folder / "studies").mkdir()
    shutil.copy(ROOT / "params" / "studies" / "criteo.yaml", folder / "studies")
    monkeypatch.setenv(VARIABLE, ":".join(map(str, plugins.get(page, []))))
    for i, code in enumerate(blocks(page, "yaml")):
        assert yaml.safe_load(code).keys() <= Params.model_fields.keys()
        overlay = tmp_path / f"{i}.yaml"
        overlay.write_text(code.replace("kind: my_method", "kind: full"), encoding="utf-8")  # the reader's own kind
        load(tmp_path, [overlay])


def test_the_tour_shows_statements_of_the_notebook():
    cells = json.loads(text_of(DOCS / "tour.ipynb"))["cells"]
    in_notebook = statements("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert statements(blocks(DOCS / "tutorials" / "tour.md", "python")) - in_notebook == set()


def statements(codes: Iterable[str]) -> set[str]:
    return {ast.unparse(statement) for code in codes for statement in ast.parse(code).body}


def test_every_key_of_params_is_in_the_reference():
    page = text_of(DOCS / "reference" / "parameters.md")
    shared: list[type[Settings]] = [
        Training, Study, Grid, DatasetReference, RandomSplit, BlockSettings, Member, MDEPair, ProjectedSetting,
    ]  # fmt: skip
    for settings in [*shared, *(kind for section in OWN for kind in kinds(section).values())]:
        missing = [name for name in settings.model_fields if not re.search(rf"\b{name}\b", page)]
        assert missing == [], settings.__name__


def test_every_kind_and_entry_is_in_the_reference():
    page = text_of(DOCS / "reference" / "parameters.md")
    assert [name for section in OWN for name in kinds(section) if f"`{name}`" not in page] == []
    params = load(ROOT, []).params
    methods, others = (text_of(DOCS / "reference" / name) for name in ("methods.md", "models-and-data.md"))
    assert [name for name in params.methods if f"`{name}`" not in methods] == []
    assert [name for name in (*params.models, *params.datasets) if f"`{name}`" not in others] == []


def test_every_command_is_in_the_reference():
    page = text_of(DOCS / "reference" / "commands.md")
    commands = typer.main.get_command(app).commands
    assert [name for name in commands if f"nisbench {name}" not in page] == []


def test_the_site_has_every_page_once():
    nav = re.findall(r"[\w/-]+\.md", text_of(ROOT / "mkdocs.yml").partition("nav:")[2])
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert len(nav) == len(set(nav))
    assert set(nav) == pages


QUOTED = {
    ("docs/evidence/findings.md", "Ratings"): "movielens_1m",
    ("docs/evidence/findings.md", "Clicks"): "movielens_1m_ctr",
    ("docs/evidence/findings.md", "Methods of today"): "methods_mf",
    ("docs/explanation/fair-comparison.md", "How patient training must be"): "patience",
    ("docs/explanation/fair-comparison.md", "Where DNIS stops"): "stopping",
    ("docs/explanation/fair-comparison.md", "Does a search find the right dimensions?"): "recovery",
    ("docs/explanation/fair-comparison.md", "What the controls say"): "controls",
}
"""The sections that quote a study's results."""
NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?:e-\d+)?(?![\w])")


@pytest.mark.parametrize(("page", "section"), QUOTED, ids=lambda name: name)
def test_figures_that_are_quoted_are_in_the_results(page, section):
    figures = figures_of(section_of(page, section))
    assert len(figures) > 5
    assert not_in_results(figures, QUOTED[page, section]) == []


def test_each_finding_on_the_front_page_is_of_the_study_that_it_names():
    findings = re.split(
        r"^\* ", section_of("README.md", "What we found").partition("\n[Findings]")[0], flags=re.MULTILINE
    )[1:]
    assert len(findings) > 4
    for finding in findings:
        (study,) = re.findall(r"\]\(results/(\w+)/README.md\)", finding)
        figures = figures_of(finding)
        assert len(figures) > 1, finding
        assert not_in_results(figures, study) == [], finding


def section_of(page: str, section: str) -> str:
    return text_of(ROOT / page).partition(f"## {section}\n")[2].partition("\n## ")[0]


def figures_of(text: str) -> set[str]:
    """The numbers in a text that are measured: those with a decimal or a thousands separator."""
    return {found for found in NUMBER.findall(text) if "." in found or "," in found}


def not_in_results(figures: set[str], study: str) -> list[str]:
    """Those figures that no file of a study's report has, rounded alike."""
    files = (ROOT / "results" / study).iterdir()
    known = np.array([float(number) for file in files if file.suffix in {".csv", ".md"} for number in numbers(file)])
    return [text for text in figures if not is_rounded(text.replace(",", ""), known)]


def numbers(file: Path) -> list[str]:
    return [
        text.replace(",", "")
        for text in NUMBER.findall(text_of(file).replace(",", " , ") if file.suffix == ".csv" else text_of(file))
    ]


def is_rounded(text: str, known: np.ndarray) -> bool:
    """Whether a number is one of those `known`, rounded to as many decimals."""
    decimals = len(text.partition(".")[2])
    return bool((np.abs(known - float(text)) <= 0.5000001 * 10.0**-decimals).any())
