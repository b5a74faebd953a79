"""Loading bases: what is guaranteed about one, what its hash sees, and every fault by its sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VOCABULARY, padded_tokens, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from llgbm.errors import InputError
from llgbm.zoo.attention import FLASH_ATTENTION
from llgbm.zoo.base import BaseIdentity, BaseOptions, check_base, load_base, load_recorded
from llgbm.zoo.named import MICRO_FOLDER

STORIES = Path(__file__).parents[3] / "shared" / "data" / "model_stories260k" / "hf"


def save_tokenizer(folder: Path, **special: str) -> None:
    words = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(VOCABULARY - 3))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(folder)
    save_tokenizer(folder, pad_token="<pad>", eos_token="</s>")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit_config(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


def test_a_loaded_base_is_the_saved_model_frozen(folder: Path) -> None:
    base = load_base(str(folder))
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.name == str(folder)
    ids, mask, positions = padded_tokens(2, 6, "right")
    assert torch.equal(base.model(ids, attention_mask=mask, position_ids=positions).logits, tiny_model()(ids, mask, positions).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(dtype: str, folder: Path) -> None:
    assert load_base(str(folder), dtype).model.dtype == getattr(torch, dtype)


def test_padding_token_falls_back_to_the_end_token(folder: Path) -> None:
    assert load_base(str(folder)).tokenizer.pad_token == "<pad>"
    save_tokenizer(folder, eos_token="</s>")
    base = load_base(str(folder))
    assert base.tokenizer.pad_token == "</s>"
    save_tokenizer(folder, eos_token="</s>", pad_token="<beyond the embeddings>")
    base = load_base(str(folder))
    assert base.tokenizer.pad_token == "</s>"
    assert base.model.get_input_embeddings().num_embeddings == VOCABULARY


def test_hash_is_of_content_not_of_place(folder: Path, tmp_path: Path) -> None:
    content_hash = load_base(str(folder)).content_hash
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert load_base(str(moved)).content_hash == content_hash
    assert load_base(str(folder), "bfloat16").content_hash != content_hash
    edit_config(folder, rms_norm_eps=1e-3)
    assert load_base(str(folder)).content_hash != content_hash
    base = load_base(str(moved))
    next(base.model.parameters()).data.view(-1)[5] += 1e-3
    assert base.content_hash != content_hash


def test_a_published_base_loads() -> None:
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is not here; it holds a published Llama of 260,032 parameters")
    base = load_base(str(STORIES))
    assert sum(parameter.numel() for parameter in base.model.parameters()) == 260_032
    assert base.tokenizer.pad_token_id < base.model.get_input_embeddings().num_embeddings


def test_the_shipped_base_loads() -> None:
    if not MICRO_FOLDER.is_dir():
        with pytest.raises(InputError, match=r"base micro: .* is missing from this installation"):
            load_base()
        return
    base = load_base()
    assert type(base.model).__name__ == "Qwen2ForCausalLM"
    assert (MICRO_FOLDER / "model.safetensors").stat().st_size <= 4_000_000


@pytest.mark.parametrize("kept", [0, 0.3, 0.999])
def test_truncated_weights_are_refused(kept: float, folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=rf"base {folder}: weights cannot be loaded"):
        load_base(str(folder))


def test_missing_weights_are_refused(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=3, layer_types=["full_attention"] * 3)
    with pytest.raises(InputError, match=r"12 weights are missing, the first is model.layers.2"):
        load_base(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights cannot be loaded .*no file named model.safetensors"):
        load_base(str(folder))


def test_what_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    small = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(**small)).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match=r"is BertForMaskedLM, not a causal language model"):
        load_base(str(tmp_path / "bert"))
    T5ForConditionalGeneration(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path / "t5"
    )
    with pytest.raises(InputError, match=r"is T5ForConditionalGeneration, not a causal language model"):
        load_base(str(tmp_path / "t5"))


def test_code_of_a_model_never_runs(folder: Path) -> None:
    edit_config(folder, model_type="custom", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    mark = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(InputError, match=rf"base {folder}: cannot be read"):
        load_base(str(folder))
    assert not mark.exists()


def test_places_without_a_model_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty.config.json is missing; give a directory written by save_pretrained"):
        load_base(str(tmp_path / "empty"))
    for name in (str(tmp_path / "nowhere"), "./nowhere", "a/b/c", str(folder / "config.json")):
        with pytest.raises(InputError, match=r"is no directory; give a directory"):
            load_base(name)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot be read"):
        load_base(str(folder))


def test_tokenizer_faults_are_named(folder: Path) -> None:
    save_tokenizer(folder)
    with pytest.raises(InputError, match=r"no embedding of a padding or an end token"):
        load_base(str(folder))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"its tokenizer has no vocabulary"):
        load_base(str(folder))


@pytest.mark.parametrize("content", ["{}", "{", '{"version": "1.0", "model": {"type": "unheard of"}}'])
def test_broken_tokenizers_are_named(content: str, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"its tokenizer cannot be loaded"):
        load_base(str(folder))


def test_dtype_and_device_faults_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"dtype 'int4' is unknown; use one of float32, bfloat16, float16, int8, nf4"):
        load_base(str(folder), "int4")
    with pytest.raises(InputError, match=r"device 'nonsense' cannot be used here"):
        load_base(str(folder), device="nonsense")


def test_an_identity_survives_json_and_says_what_it_lacks(folder: Path) -> None:
    identity = load_base(str(folder), "bfloat16").identity
    assert BaseIdentity.read(json.loads(json.dumps(vars(identity))), "x") == identity
    assert (identity.name, identity.dtype, identity.device, identity.template_hash) == (str(folder), "bfloat16", "cpu", None)
    for name in ("dtype", "tokenizer_hash"):
        with pytest.raises(InputError, match=rf"manifest.json: the record of its base has no {name}, .* 'llgbm zoo build'"):
            BaseIdentity.read({**vars(identity), name: 7}, "manifest.json")
    with pytest.raises(InputError, match="the record of its base has no name"):
        BaseIdentity.read("micro", "manifest.json")


def test_the_source_hash_is_the_same_whatever_the_dtype(folder: Path) -> None:
    single, half = (load_base(str(folder), dtype).identity for dtype in ("float32", "bfloat16"))
    assert single.source_hash == half.source_hash == single.hash != half.hash
    model = tiny_model().to(torch.bfloat16)
    model.save_pretrained(folder)
    single, half = (load_base(str(folder), dtype).identity for dtype in ("float32", "bfloat16"))
    assert single.source_hash == half.source_hash == half.hash != single.hash


def test_a_relative_path_is_recorded_so_that_it_is_found_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    recorded = load_base(folder.name).identity
    monkeypatch.chdir("/")
    assert load_recorded("it", recorded).name == str(folder)


def test_a_recorded_base_is_loaded_as_it_was(folder: Path, tmp_path: Path) -> None:
    recorded = load_base(str(folder), "bfloat16").identity
    assert load_recorded("it", recorded).identity == recorded
    moved = shutil.copytree(folder, tmp_path / "moved")
    shutil.rmtree(folder)
    assert load_recorded("it", recorded, BaseOptions(name=str(moved))).content_hash == recorded.hash
    with pytest.raises(InputError, match="is no directory"):
        load_recorded("it", recorded)


def test_another_precision_must_be_asked_for_and_come_from_the_same_weights(folder: Path) -> None:
    recorded = load_base(str(folder), "bfloat16").identity
    asked = BaseOptions(dtype="float32")
    assert load_recorded("it", recorded, asked).dtype == "float32"
    with pytest.raises(InputError, match=r"it was made with .* in bfloat16, the base is loaded in float32; say --dtype float32"):
        check_base("it", recorded, load_base(str(folder)))
    other = tiny_model()
    next(other.parameters()).data.view(-1)[5] += 1e-6  # gone in bfloat16
    other.save_pretrained(folder)
    with pytest.raises(InputError, match=rf"it belongs to a base with hash {recorded.hash[:8]}, but {folder} has"):
        load_recorded("it", recorded, asked)


def test_another_tokenizer_or_template_is_another_base(folder: Path) -> None:
    recorded = load_base(str(folder)).identity
    base = load_base(str(folder))
    base.tokenizer(["w1 w2", "w1"], padding=True, truncation=True, max_length=1)
    check_base("it", recorded, base)  # how a call padded is no content
    base.tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(InputError, match="it was made with another chat template than"):
        check_base("it", recorded, base)
    save_tokenizer(folder, pad_token="<pad>", eos_token="<s>")
    with pytest.raises(InputError, match=r"it was made with another tokenizer \(.*\) than .* has"):
        load_recorded("it", recorded)


def test_attention_is_computed_as_asked_and_leaves_the_content_as_it_is(folder: Path) -> None:
    ways = {way: load_base(str(folder), attn_implementation=way) for way in (None, "eager", "sdpa")}
    assert {way: base.model.config._attn_implementation for way, base in ways.items()} == {None: "sdpa", "eager": "eager", "sdpa": "sdpa"}
    assert len({base.content_hash for base in ways.values()}) == 1
    ids, mask, positions = padded_tokens(2, 6, "right")
    eager, fused = (ways[way].model(ids, attention_mask=mask, position_ids=positions).logits[mask.bool()] for way in ("eager", "sdpa"))
    torch.testing.assert_close(eager, fused)
    recorded = ways["sdpa"].identity
    assert load_recorded("zoo z", recorded, BaseOptions(attn_implementation="eager")).model.config._attn_implementation == "eager"


def test_attention_that_cannot_be_had_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FLASH_ATTENTION, "flash_attention_2", lambda: False)
    with pytest.raises(InputError, match="attn_implementation is flash_attention_2, whose package is not installed here"):
        load_base(str(folder), "bfloat16", attn_implementation="flash_attention_2")
    monkeypatch.setitem(FLASH_ATTENTION, "flash_attention_2", lambda: True)
    with pytest.raises(InputError, match="which takes no float32"):
        load_base(str(folder), attn_implementation="flash_attention_2")
    for name in ("somebody/kernels", "kernels-community/flash-attn2"):
        with pytest.raises(InputError, match="is unknown; use one of eager, sdpa, flex_attention"):
            load_base(str(folder), attn_implementation=name)
    tiny_model("bloom").save_pretrained(tmp_path / "bloom")
    save_tokenizer(tmp_path / "bloom", pad_token="<pad>", eos_token="</s>")
    with pytest.raises(InputError, match=r"bloom: (its family computes attention in its own way, not by|cannot compute attention by) sdpa"):
        load_base(str(tmp_path / "bloom"), attn_implementation="sdpa")
