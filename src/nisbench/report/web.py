from pathlib import Path


def write_page(folder: Path) -> None:
    (folder / "page.html").write_text("x")
