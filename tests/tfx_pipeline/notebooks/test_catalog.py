import ast
import json
import sys
from pathlib import Path

import pytest

from tfx_pipeline.notebooks import catalog
from tfx_pipeline.notebooks.catalog import NotebookError
from tfx_pipeline.notebooks.run_results import NEEDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[3]
NAMES = ["compare_models", "compression_pareto", "data_quality", "errors", "slices_and_fairness"]


def sources(notebook, kind):
    return ["".join(c["source"]) for c in notebook.content["cells"] if c["cell_type"] == kind]


def test_the_catalog_lists_the_repositorys_notebooks():
    assert [one.name for one in catalog.catalog()] == NAMES
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_opens_with_three_questions_and_its_parameters(name):
    notebook = catalog.find(name)
    lines = sources(notebook, "markdown")[0].splitlines()
    assert lines[0].startswith("# ")
    assert [line[:2] for line in lines[2:]] == ["- "] * 3
    assert all(line.endswith("?") for line in lines[2:])
    assert notebook.content["cells"][1]["metadata"]["tags"] == ["parameters"]
    assert notebook.parameters["RUN"] == ""
    assert set(notebook.needs) <= set(NEEDS)
    assert len(notebook.description) < 90


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_have_no_outputs_and_no_logic(name):
    code = [c for c in catalog.find(name).content["cells"] if c["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    for cell in code:
        tree = ast.parse("".join(cell["source"]))
        kinds = (ast.FunctionDef, ast.ClassDef, ast.While)
        assert not any(isinstance(node, kinds) for node in ast.walk(tree))


def test_values_replace_defaults_and_keep_comments():
    notebook = catalog.find("slices_and_fairness")
    filled = catalog.filled(notebook, {"run": "/x/it's", "groups": "race,race*gender"})
    lines = filled["cells"][1]["source"]
    values = {
        one.targets[0].id: ast.literal_eval(one.value) for one in ast.parse("".join(lines)).body
    }
    assert values == {
        **notebook.parameters,
        "RUN": "/x/it's",
        "GROUPS": "race,race*gender",
    }
    before = notebook.content["cells"][1]["source"]
    assert [line.partition("#")[2] for line in lines] == [line.partition("#")[2] for line in before]
    assert lines != before  # The catalog's copy is unchanged.


def test_a_value_has_the_type_of_the_default():
    filled = catalog.filled(catalog.find("compression_pareto"), {"max_drop": "0.05"})
    assert any(line.startswith("MAX_DROP = 0.05") for line in filled["cells"][1]["source"])
    filled = catalog.filled(catalog.find("errors"), {"shown": "7"})
    assert any(line.startswith("SHOWN = 7 ") for line in filled["cells"][1]["source"])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("errors", {"show": "3"}, "no parameter 'show'; did you mean shown"),
        ("errors", {"shown": "many"}, "shown must be a whole number, got 'many'"),
        ("compression_pareto", {"max_drop": "2 %"}, "max_drop must be a number, got '2 %'"),
        ("data_quality", {"model": "x"}, "no parameter 'model'; it has none"),
    ],
)
def test_a_bad_parameter_is_an_error(name, values, message):
    with pytest.raises(NotebookError, match=message):
        catalog.filled(catalog.find(name), values)


def test_names_are_forgiving_and_unknown_ones_name_the_nearest():
    assert catalog.find("compare-models").name == "compare_models"
    assert catalog.find("errors.ipynb").name == "errors"
    with pytest.raises(NotebookError, match="did you mean compare_models"):
        catalog.find("compare_model")


def test_a_copy_is_never_overwritten(tmp_path):
    path = tmp_path / "new" / "mine.ipynb"
    catalog.write(catalog.find("errors").content, path)
    assert json.loads(path.read_text(encoding="utf-8"))["nbformat"] == 4
    with pytest.raises(NotebookError, match="exists already"):
        catalog.write(catalog.find("errors").content, path)
    with pytest.raises(NotebookError, match=r"write .*mine\.txt\.ipynb"):
        catalog.write(catalog.find("errors").content, tmp_path / "mine.txt")


def test_an_installed_package_holds_the_notebooks(tmp_path, monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    expected = catalog.INSTALLED.relative_to(ROOT).as_posix()
    assert wheel["force-include"] == {"notebooks": expected}

    (tmp_path / "only.ipynb").write_text(json.dumps(catalog.find("errors").content))
    monkeypatch.setattr(catalog, "INSTALLED", tmp_path)
    assert [one.name for one in catalog.catalog()] == ["only"]
