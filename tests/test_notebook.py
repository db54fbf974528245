"""The notebook: it is what its script says, and it runs from the first cell to the last."""

import importlib.util
import shutil
import subprocess
import zipfile
from pathlib import Path

import nbformat
import pytest
from jupytext.cli import jupytext
from nbclient import NotebookClient
from packaging.requirements import Requirement

from gpt_tf2.backend import starting
from helpers.made_up import write_model
from helpers.markdown import LINK
from helpers.workplace import ROOT

FOLDER = ROOT / "notebooks"
SMALL = {"MODEL": "tiny", "EPOCHS": 2, "STEPS": 3, "BATCH_SIZE": 2, "LENGTH": 128}
ADDRESS = "https://host.example/someone/gpt-tf2"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / "start.ipynb", as_version=4)


def test_the_notebook_is_that_of_the_script(tmp_path: Path) -> None:
    """`make notebooks` would change nothing, and nobody has saved a run's outputs."""
    for name in ("start.py", "start.ipynb"):
        shutil.copy(FOLDER / name, tmp_path)
    jupytext(["--quiet", "--update", "--to", "ipynb", str(tmp_path / "start.py")])
    assert (tmp_path / "start.ipynb").read_text() == (FOLDER / "start.ipynb").read_text()
    cells = nbformat.read(tmp_path / "start.ipynb", as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_its_links_lead_to_files(notebook: nbformat.NotebookNode) -> None:
    links = [link for cell in notebook.cells if cell.cell_type == "markdown" for link in LINK.findall(cell.source)]
    assert links
    assert [link for link in links if not (FOLDER / link).is_file()] == []


@pytest.mark.parametrize(
    ("folder", "source", "gpu", "url", "extras"),
    [
        (FOLDER, "", False, ROOT.as_uri(), set()),
        (FOLDER, ADDRESS, True, f"git+{ADDRESS}", {"gpu"}),
        (Path("/"), "", True, f"git+{ADDRESS}/asked", {"gpu"}),
    ],
)
def test_it_installs_the_package_where_it_is_missing(
    folder: Path,
    source: str,
    gpu: bool,
    url: str,
    extras: set[str],
    notebook: nbformat.NotebookNode,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """From its checkout, from the repository that it names, or else from the one that the reader names."""
    runs: list[list[str]] = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}" if gpu else None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: runs.append(command))
    monkeypatch.setattr("builtins.input", lambda question: f"{ADDRESS}/asked ")
    monkeypatch.setattr(starting, "start_backend", lambda: "JAX on a GPU")
    cell = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert cell.count('SOURCE = ""') == 1
    exec(cell.replace('SOURCE = ""', f"SOURCE = {source!r}"), {})
    [command] = runs
    package = Requirement(command[-1])
    assert command[1:4] == ["-m", "pip", "install"]
    assert (package.name, package.url, package.extras) == ("gpt-tf2", url, extras)
    assert "JAX on a GPU" in capsys.readouterr().out


@pytest.mark.slow
def test_it_runs(notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small model, with a few steps. It shows the curve and both texts, and leaves an archive to download."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))  # not the reader's kernels
    write_model(tmp_path / "models" / "tiny", n_ctx=256)
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert [line.partition(" = ")[0] for line in parameters.source.splitlines()] == list(SMALL)
    parameters.source = "\n".join(f"{name} = {value!r}" for name, value in SMALL.items())
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "step 6/6" in printed
    assert "AFTER" in printed
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    with zipfile.ZipFile(tmp_path / "output" / "gpt2-reference.zip") as archive:
        assert {"model.safetensors", "config.json", "encoder.json", "vocab.bpe"} <= set(archive.namelist())
