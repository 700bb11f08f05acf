import json
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.infer import ModelLoadError, list_models, load_model

MODEL = """
import numpyro
import numpyro.distributions as dist

def model(scale, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, scale))
    with numpyro.plate("i", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
"""
ENTRY = {"mean": 0.0, "sd": 1.0, "mean_sq": 1.0, "sd_sq": 1.4, "ess": 1e4, "mcse": 0.01, "mcse_sq": 0.014}


def make_folder(path, source=MODEL, data: str | None = '{"scale": 2, "y": [1, 2.5]}', **files):
    path.mkdir(parents=True)
    (path / "model.py").write_text(source)
    if data is not None:
        (path / "data.json").write_text(data)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_folder_gives_model_data_reference_and_path(tmp_path):
    reference = {"source": "by hand", "parameters": {"mu": ENTRY}}
    folder = make_folder(tmp_path / "normal", reference=reference)
    case = load_model(folder)
    assert case.name == "normal"
    assert case.path == folder.resolve()
    assert case.reference == reference
    assert isinstance(case.data["scale"], int)
    np.testing.assert_array_equal(case.data["y"], np.array([1.0, 2.5]))
    assert case.model.__name__ == "model"


def test_path_to_model_py_is_its_folder(tmp_path):
    folder = make_folder(tmp_path / "normal")
    assert load_model(str(folder / "model.py")).name == "normal"
    assert load_model(folder / "model.py").data["scale"] == 2


def test_single_file_takes_its_data_from_the_caller(tmp_path):
    (tmp_path / "line.py").write_text(MODEL)
    (tmp_path / "data.json").write_text('{"not": "mine"}')
    case = load_model(tmp_path / "line.py", data={"scale": 1.5, "y": np.arange(3)})
    assert (case.name, case.data["scale"], case.reference) == ("line", 1.5, None)
    assert case.path == (tmp_path / "line.py").resolve()


@pytest.mark.parametrize("as_file", [False, True])
def test_given_data_stand_in_for_the_folders_own_and_leave_its_reference_out(tmp_path, as_file):
    folder = make_folder(tmp_path / "normal", reference={"source": "by hand", "parameters": {"mu": ENTRY}})
    data = {"scale": 7, "y": [0, 1, 2]}
    if as_file:
        (tmp_path / "other.json").write_text(json.dumps(data))
    case = load_model(folder, data=tmp_path / "other.json" if as_file else data)
    assert case.data["scale"] == 7
    assert case.data["y"].dtype.kind == "i"
    assert case.data["y"].shape == (3,)
    assert case.reference is None


def test_two_models_of_one_file_name_do_not_meet_and_sys_path_is_untouched(tmp_path):
    before = list(sys.path)
    cases = [
        load_model(make_folder(tmp_path / group / "normal", MODEL + f"\nWHICH = {group!r}\n"))
        for group in "ab"
    ]
    assert [sys.modules[case.model.__module__].WHICH for case in cases] == ["a", "b"]
    assert sys.path == before
    assert "model" not in sys.modules


def test_changed_file_is_executed_again_and_an_unchanged_one_is_not(tmp_path):
    folder = make_folder(tmp_path / "normal", MODEL + "WHICH = 1\n")
    first = load_model(folder)
    assert load_model(folder).model is first.model
    (folder / "model.py").write_text(MODEL + "WHICH = 2\n")  # same length, within the same second
    second = load_model(folder)
    assert sys.modules[second.model.__module__].WHICH == 2
    assert pickle.loads(pickle.dumps(first.model)) is first.model


def test_prepare_turns_data_into_arguments_and_cannot_change_the_callers(tmp_path):
    source = (
        MODEL + "def prepare(data):\n    data['y'] -= 1\n    return {'scale': data['s'], 'y': data['y']}\n"
    )
    data = {"s": 3, "unused": [[1, 2], [3]], "y": np.array([1.0, 2.0])}
    case = load_model(make_folder(tmp_path / "prepared", source, None), data=data)
    assert list(case.data) == ["scale", "y"]
    np.testing.assert_array_equal(case.data["y"], [0.0, 1.0])
    np.testing.assert_array_equal(data["y"], [1.0, 2.0])
    assert list(data) == ["s", "unused", "y"]


def test_values_keep_their_kind(tmp_path):
    source = "def model(**fields):\n    pass\n"
    data = {
        "flag": True,
        "count": 3,
        "none": None,
        "word": "a",
        "words": ["a", "b"],
        "matrix": [[1, 2], [3, 4]],
        "inner": {"x": [0.5]},
        "array": jnp.ones(2),
    }
    case = load_model(make_folder(tmp_path / "any", source, None), data=data)
    assert case.data["flag"] is True
    assert case.data["none"] is None
    assert case.data["words"] == ["a", "b"]
    assert case.data["matrix"].shape == (2, 2)
    assert case.data["inner"]["x"].dtype == np.float64
    assert case.data["array"] is data["array"]


def test_model_without_parameters_needs_no_data(tmp_path):
    assert load_model(make_folder(tmp_path / "empty", "def model():\n    pass\n", None)).data == {}


def test_list_models_finds_folders_and_files_without_executing_them(tmp_path):
    make_folder(tmp_path / "b_folder", "raise RuntimeError('executed')")
    (tmp_path / "a_file.py").write_text("raise RuntimeError('executed')\ndef model(y):\n    pass\n")
    (tmp_path / "tool.py").write_text("def main():\n    model = 1\n    if model == 2: pass\n")
    (tmp_path / "_private.py").write_text(MODEL)
    (tmp_path / "notes.txt").write_text("def model(): ...")
    (tmp_path / "empty").mkdir()
    assert [path.name for path in list_models(tmp_path)] == ["a_file.py", "b_folder"]


class TestBadInput:
    def test_unknown_path_names_the_models_near_by(self, tmp_path):
        make_folder(tmp_path / "eight_schools")
        make_folder(tmp_path / "radon")
        with pytest.raises(ModelLoadError, match=r"Did you mean eight_schools\?.*eight_schools, radon"):
            load_model(tmp_path / "eight_school")
        with pytest.raises(ModelLoadError, match=r"no model at .*deep.*Models in .*: eight_schools, radon"):
            load_model(tmp_path / "no" / "deep")

    def test_folder_without_model(self, tmp_path):
        with pytest.raises(ModelLoadError, match=r"has no model\.py.*holds no models"):
            load_model(tmp_path)

    def test_file_that_is_not_python(self, tmp_path):
        (tmp_path / "model.txt").write_text(MODEL)
        with pytest.raises(ModelLoadError, match=r"model\.txt is not a model"):
            load_model(tmp_path / "model.txt")

    def test_list_of_no_folder(self, tmp_path):
        with pytest.raises(ModelLoadError, match="not an existing folder"):
            list_models(tmp_path / "none")

    def test_no_function_model(self, tmp_path):
        folder = make_folder(tmp_path / "m", "def modell(y):\n    pass\nmodel = 3\n")
        with pytest.raises(ModelLoadError, match=r"model\.py defines no function 'model'.*has modell"):
            load_model(folder)

    @pytest.mark.parametrize(
        ("source", "kind", "text"),
        [
            ("import not_installed_anywhere", ModuleNotFoundError, "not_installed_anywhere"),
            ("def model(:", SyntaxError, "SyntaxError"),
            ("1 / 0", ZeroDivisionError, "division by zero"),
            ("import sys; sys.exit(3)", SystemExit, "SystemExit: 3"),
        ],
    )
    def test_exception_in_the_file_is_named_and_chained(self, tmp_path, source, kind, text):
        modules = set(sys.modules)
        with pytest.raises(ModelLoadError, match=rf"model\.py failed when executed.*{text}") as caught:
            load_model(make_folder(tmp_path / "m", source))
        assert isinstance(caught.value.__cause__, kind)
        assert not {name for name in set(sys.modules) - modules if name.startswith("_qdesampler_model")}

    def test_an_import_from_beside_the_model_names_the_line_that_helps(self, tmp_path):
        folder = make_folder(tmp_path / "m", "from helper import width\n" + MODEL)
        with pytest.raises(ModelLoadError, match="No module named 'helper'. Install .*: pip install helper"):
            load_model(folder)
        (folder / "helper.py").write_text("width = 3\n")
        with pytest.raises(
            ModelLoadError, match=r"helper lies beside the model.*Begin model\.py with"
        ) as told:
            load_model(folder)
        line = str(told.value).partition("this line: ")[2]
        (folder / "model.py").write_text(f"{line}\nfrom helper import width\n{MODEL}")
        before = list(sys.path)
        try:
            assert load_model(folder).name == "m"
        finally:
            sys.path[:] = before

    def test_a_table_names_the_line_that_converts_it(self, tmp_path):
        table = tmp_path / "own.csv"
        table.write_text("scale,y\n1,2\n3,4\n")
        with pytest.raises(ModelLoadError, match=r"own\.csv is not valid JSON") as told:
            load_model(make_folder(tmp_path / "m"), data=table)
        line = str(told.value).partition("line of Python: ")[2]
        line = line.replace("own.", f"{tmp_path}/own.")
        exec(line, {})
        assert json.loads((tmp_path / "own.json").read_text()) == {"scale": [1, 3], "y": [2, 4]}

    def test_missing_fields(self, tmp_path):
        folder = make_folder(tmp_path / "m", data='{"z": 1}')
        with pytest.raises(ModelLoadError, match=r"m/model\.py needs scale, y, missing.*data\.json has z"):
            load_model(folder)
        with pytest.raises(ModelLoadError, match=r"needs y, missing.*the data given has scale"):
            load_model(folder, data={"scale": 1})

    def test_no_data_at_all(self, tmp_path):
        with pytest.raises(ModelLoadError, match=r"needs scale, y.*Write them into data.json"):
            load_model(make_folder(tmp_path / "m", data=None))

    def test_unknown_fields(self, tmp_path):
        folder = make_folder(tmp_path / "m", data='{"scale": 1, "y": [1], "extra": 2, "more": 3}')
        with pytest.raises(ModelLoadError, match="does not take extra, more; it takes scale, y"):
            load_model(folder)

    def test_positional_only_parameters(self, tmp_path):
        folder = make_folder(tmp_path / "m", "def model(y, /):\n    pass\n", '{"y": 1}')
        with pytest.raises(ModelLoadError, match="takes y by position only"):
            load_model(folder)

    @pytest.mark.parametrize("text", ['{"y": [1, 2', '{"y": NaN}', '{"y": [1, -Infinity]}'])
    def test_broken_json(self, tmp_path, text):
        with pytest.raises(ModelLoadError, match=r"data\.json is not valid JSON"):
            load_model(make_folder(tmp_path / "m", data=text))

    def test_json_that_is_no_object(self, tmp_path):
        with pytest.raises(ModelLoadError, match="holds a list at its top level"):
            load_model(make_folder(tmp_path / "m", data="[1]"))

    def test_data_file_that_is_not_there(self, tmp_path):
        with pytest.raises(ModelLoadError, match=r"nowhere\.json cannot be read"):
            load_model(make_folder(tmp_path / "m"), data=tmp_path / "nowhere.json")

    @pytest.mark.parametrize(
        "bad", [np.array([1.0, np.nan]), jnp.array([jnp.inf]), float("nan"), [1.0, np.inf]]
    )
    def test_numbers_that_are_not_finite(self, tmp_path, bad):
        with pytest.raises(
            ModelLoadError, match=r"field y from the data given has 1 value\(s\) that are NaN"
        ):
            load_model(make_folder(tmp_path / "m"), data={"scale": 1, "y": bad})

    @pytest.mark.parametrize("bad", ["[[1, 2], [3]]", "[1, null]", '[1, "a"]'])
    def test_lists_that_are_no_arrays(self, tmp_path, bad):
        folder = make_folder(tmp_path / "m", data=f'{{"scale": 1, "y": {bad}}}')
        with pytest.raises(ModelLoadError, match="field y .* not a rectangular array of numbers"):
            load_model(folder)

    def test_prepare_that_fails_or_returns_something_else(self, tmp_path):
        fails = MODEL + "def prepare(data):\n    return {'y': data['absent']}\n"
        with pytest.raises(
            ModelLoadError, match=r"prepare.*failed.*\(scale, y\): KeyError: 'absent'"
        ) as caught:
            load_model(make_folder(tmp_path / "fails", fails))
        assert isinstance(caught.value.__cause__, KeyError)
        with pytest.raises(ModelLoadError, match="returned a list; expected a dict"):
            load_model(make_folder(tmp_path / "lists", MODEL + "def prepare(data):\n    return [1]\n"))

    def test_prepared_arguments_are_checked_too(self, tmp_path):
        source = (
            MODEL + "import numpy as np\ndef prepare(data):\n    return {'scale': 1, 'y': data['y'] / 0.0}\n"
        )
        with (
            np.errstate(divide="ignore"),
            pytest.raises(ModelLoadError, match=r"field y from prepare\(data\) in .* has 2 value"),
        ):
            load_model(make_folder(tmp_path / "m", source))

    def test_broken_reference(self, tmp_path):
        entry = {**ENTRY, "mcse": 0}
        reference = {"source": "by hand", "parameters": {"mu": entry}}
        with pytest.raises(ModelLoadError, match=r"reference\.json: parameter mu: mcse is 0, expected a pos"):
            load_model(make_folder(tmp_path / "m", reference=reference))
