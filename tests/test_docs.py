"""The pages: what they link to, name and show exists and works."""

import re
from pathlib import Path

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
LINK = re.compile(r"\]\(([^)\s]+)\)")
REPOSITORY = "https://github.com/nisbench/nisbench/blob/main/"
OWN_FOLDERS = ("src/", "docs/", "params/", "tests/", "workflow/", "benchmarks/")
GENERATED = {"params/studies/"}

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


@each_page
def test_commands_that_are_named_exist(page):
    commands = typer.main.get_command(app).commands
    named = re.findall(r"(?:^|`|[\s$(]|&& )nisbench ([a-z][a-z-]*)\b", "\n".join(code_of(page)), re.MULTILINE)
    assert {name for name in named if name not in commands} == set()


def code_of(page: Path) -> list[str]:
    """Blocks of shell commands, and code in the running text."""
    shell = [code for language, code in FENCE.findall(text_of(page)) if language in {"sh", "console"}]
    commands = [re.sub(r"#.*", "", line) for code in shell for line in code.splitlines()]
    return [*commands, *re.findall(r"`([^`\n]+)`", prose(page))]


@each_page
def test_lines_of_code_fit_a_page(page):
    long = [line for _, code in FENCE.findall(text_of(page)) for line in code.splitlines() if len(line) > LINE_OF_CODE]
    assert long == [] or page.name == "methods.md"


LINE_OF_CODE = 90
PLUGIN = re.compile(r"# (\w+\.py)\n")


def plugins() -> list:
    return [
        pytest.param(match[1], code, id=f"{page.relative_to(ROOT)}-{match[1]}")
        for page in PAGES
        for code in blocks(page, "python")
        if (match := PLUGIN.match(code))
    ]


@pytest.mark.parametrize(("name", "code"), plugins())
def test_plugins_that_are_shown_can_be_loaded(name, code, tmp_path):
    file = tmp_path / name
    file.write_text(code, encoding="utf-8")
    assert load_plugin(file)


def yaml_blocks() -> list:
    return [
        pytest.param(page, code, id=f"{page.relative_to(ROOT)}-{i}")
        for page in PAGES
        for i, code in enumerate(blocks(page, "yaml"))
    ]


@pytest.mark.parametrize(("page", "code"), yaml_blocks())
def test_yaml_has_known_sections_and_is_valid(page, code, tmp_path, monkeypatch):
    """A block is an overlay. The plug-ins that it needs are on the same page."""
    assert yaml.safe_load(code).keys() <= Params.model_fields.keys()
    files = []
    for shown in blocks(page, "python"):
        if match := PLUGIN.match(shown):
            files.append(tmp_path / match[1])
            files[-1].write_text(shown, encoding="utf-8")
    if "my_method" in code:  # CONTRIBUTING: the reader's own
        code = code.replace("kind: my_method", "kind: full")
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(code, encoding="utf-8")
    monkeypatch.setenv(VARIABLE, ":".join(map(str, files)))
    load(ROOT, [overlay])


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
