"""A generator of somebody else, imported by name, asked like ours and checked."""

from pathlib import Path

import pytest
from evaluation_world import build_evaluation_world

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.evaluation.foreign import load_foreign
from llgbm.evaluation.methods import choose_methods
from llgbm.evaluation.setting import EvaluationConfig, load_setting
from llgbm.evaluation.task_eval import evaluate
from llgbm.files import read_json

MODULE = '''
from pathlib import Path

import torch

from llgbm.lora.peft_io import read_adapter

ZOO = Path({zoo!r})
ASKED = []


def letter(text):
    return next(word for word in text.lower().replace(".", " ").replace(",", " ").split() if len(word) == 1)


def folders(descriptions, prompts, base):
    """The teacher whose letter the sentence says, as the folder it lies in."""
    ASKED.append((descriptions, prompts, base))
    return [str(next(ZOO.glob(f"letters/say {{letter(text)}}/seed0"))) for text in descriptions]


def factors(descriptions, prompts, base):
    """The same by what is asked in the first prompt, as factors."""
    return [read_adapter(next(ZOO.glob(f"letters/say {{letter(shown[0])}}/seed0"))) for shown in prompts]


def fewer(descriptions, prompts, base):
    return folders(descriptions, prompts, base)[1:]


def nothing(descriptions, prompts, base):
    return None


def numbers(descriptions, prompts, base):
    return [1.0 for _ in descriptions]


def several(descriptions, prompts, base):
    one = factors(descriptions, prompts, base)[0]
    return [one.select([0, 0]) for _ in descriptions]


def misshapen(descriptions, prompts, base):
    found = factors(descriptions, prompts, base)
    for one in found:
        name = next(iter(one.a))
        one.a[name] = torch.zeros(1, 2, 5)
    return found


NUMBER = 3
'''


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return build_evaluation_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def module(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, of a name of its own so that no test imports another's."""
    name = f"foreign_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")
    (tmp_path / f"{name}.py").write_text(MODULE.format(zoo=str(zoo)))
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("function", ["folders", "factors"])
def test_it_is_asked_in_the_words_of_the_split_and_scored(zoo: Path, module: str, function: str) -> None:
    chosen = EvaluationConfig(methods=("teacher", "base", "foreign"), foreign=f"{module}:{function}")
    document = evaluate(None, zoo, chosen).to_json()
    for split, methods in document["splits"].items():
        if split != "mixture":
            assert methods["foreign"] == methods["teacher"]
    assert {(row["method"], row["other"]) for row in document["comparisons"]} == {("foreign", "teacher"), ("foreign", "base")}


def test_the_command_line_imports_it_from_the_current_folder(zoo: Path, module: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = [
        "--run",
        "none",
        "--zoo",
        str(zoo),
        "--splits",
        "unseen_both",
        "--methods",
        "foreign",
        "base",
        "--output",
        str(tmp_path / "e.json"),
    ]
    assert main(["evaluate", *flags, "--method", f"{module}:folders"]) == 0
    assert read_json(tmp_path / "e.json")["splits"]["unseen_both"]["foreign"]["exact_match"] == 1
    assert "foreign adapters against the others" in capsys.readouterr().out
    assert main(["evaluate", *flags, "--method", f"{module}:NUMBER"]) == 2
    assert "has no function NUMBER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fewer", "was asked for 2 adapters and gave 1; return a list"),
        ("nothing", "was asked for 2 adapters and gave a NoneType"),
        ("numbers", "adapter 0 is a float; return the folder of a PEFT adapter"),
        ("several", "adapter 0 is LoRAFactors of 2 adapters"),
        ("misshapen", r"adapter 0 has .* of \(d_in, d_out\) = \(5, \d+\), here is"),
    ],
)
def test_what_is_no_adapter_is_named(zoo: Path, module: str, function: str, message: str) -> None:
    chosen = EvaluationConfig(methods=("foreign",), splits=("unseen_combination",), foreign=f"{module}:{function}")
    with pytest.raises(InputError, match=message):
        evaluate(None, zoo, chosen)


def test_what_cannot_be_imported_is_named(module: str, tmp_path: Path, zoo: Path) -> None:
    with pytest.raises(InputError, match="'foreign' is no function to import; give module:function"):
        load_foreign("foreign")
    with pytest.raises(InputError, match="module no_such_module cannot be imported"):
        load_foreign("no_such_module:generate")
    (tmp_path / "broken_foreign.py").write_text("1 / 0")
    with pytest.raises(InputError, match=r"broken_foreign cannot be imported \(division by zero"):
        load_foreign("broken_foreign:generate")
    with pytest.raises(InputError, match="method foreign needs a generator to import; give --method module:function"):
        choose_methods(load_setting(None, zoo, EvaluationConfig(methods=("foreign",))))
