"""`llgbm try` and generated folders as a stranger uses them: plain PEFT answers the same, the base stays the base."""

import io
import json
import re
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.evaluation.side_by_side import SideBySide
from llgbm.lora.adapter_config import base_of
from llgbm.lora.peft_io import target_shapes
from llgbm.models.encoder import HashingEncoder
from llgbm.models.export import Request, generate_adapters
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.zoo.base import load_base
from llgbm.zoo.suite import ALPACA_FRAME, Example


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base, encoder = load_base("micro"), HashingEncoder()
    shapes = target_shapes(base.model, ["q_proj", "down_proj"])
    spec = GeneratorSpec(shapes, 2, 4.0, encoder.dim, encoder_id=encoder.content_id, base=base.identity)
    torch.manual_seed(0)
    generator = LoRAGenerator(spec, encoder)
    for head in generator.heads:
        torch.nn.init.normal_(head.write_b.weight)
    folder = tmp_path_factory.mktemp("run")
    generator.save_pretrained(folder / "generator")
    return folder


@pytest.fixture(scope="module")
def adapter(run):
    (folder,) = generate_adapters(run, [Request("reverse", "Reverse the string.")], run / "adapter")
    return folder


def greedy(model, text: str) -> str:
    tokenizer = load_base("micro").tokenizer
    ids = tokenizer(ALPACA_FRAME.replace("{input}", text), return_tensors="pt").input_ids
    new = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0)
    return tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_voices_say_what_plain_models_say_and_the_base_stays_itself(adapter):
    table, pieces = SideBySide(load_base("micro"), {"adapter": adapter}, max_new_tokens=12), []
    first = table.answer("base", "abc")
    adapted = table.answer("adapter", "abc", on_text=pieces.append)
    assert adapted == greedy(AutoPeftModelForCausalLM.from_pretrained(adapter), "abc")
    assert table.answer("base", "abc") == first == greedy(load_base("micro").model, "abc")
    assert "".join(pieces).strip() == adapted
    assert adapted != first


def test_the_cards_snippet_runs_as_it_stands(adapter):
    snippet = re.search(r"```python\n(.*?)```", (adapter / "README.md").read_text(), re.S)
    names: dict = {}
    exec(snippet[1], names)
    assert greedy(names["model"], "abc") == greedy(AutoPeftModelForCausalLM.from_pretrained(adapter), "abc")


def test_the_command_shows_all_voices_and_generate_names_it(run, adapter, capsys, tmp_path):
    flags = ["--run", str(run), "--description", "Reverse the string.", "--max_new_tokens", "8"]
    assert main(["try", str(adapter), "abc", "[b]", *flags]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("text", "base", "adapter", "generated", "[b]"))
    assert main(["generate", "--checkpoint", str(run), "--description", "Sort it.", "--output_dir", str(tmp_path / "new")]) == 0
    assert f"llgbm try {tmp_path / 'new'}" in capsys.readouterr().out


def test_a_chat_remembers_what_each_voice_said(adapter, monkeypatch, capsys):
    base = load_base("micro")
    base.tokenizer.chat_template = (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    table = SideBySide(base, {"adapter": adapter}, max_new_tokens=6)
    assert table.frame == "chat"
    alone, after = table.answer("base", "abc"), table._framing.ids(Example("abc", ""), [Example("x", "y")])[0]
    assert len(after) > len(table._framing.ids(Example("abc", ""))[0])
    assert isinstance(alone, str)
    monkeypatch.setattr("llgbm.cli.try_adapter._load", lambda args, folder: table)
    monkeypatch.setattr("sys.stdin", io.StringIO("abc\n\ndef\n"))
    assert main(["try", str(adapter), "--chat"]) == 0
    assert capsys.readouterr().out.count("adapter> ") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["none", "abc"], "nothing to try: give an adapter's folder"),
        (["ADAPTER"], "say what to ask: texts after the adapter, or --chat"),
        (["ADAPTER", "abc", "--frame", "chatt"], "frame 'chatt' is unknown; choose one of auto, chat"),
        (["ADAPTER", "--chat"], "base micro has no chat template, so it cannot chat"),
        (["ADAPTER", "abc", "--frame", "chat"], "base micro has no chat template; use --frame alpaca"),
        (["ADAPTER", "abc", "--max_new_tokens", "0"], "--max_new_tokens is 0; give 1 or more"),
        (["ADAPTER", "abc", "--memory_gb", "1"], "unrecognized arguments: --memory_gb"),
        (["/nowhere", "abc"], "/nowhere: PEFT cannot put this adapter on base micro"),
    ],
)
def test_faults_are_named(flags, message, adapter, capsys):
    flags = [str(adapter) if flag == "ADAPTER" else flag for flag in flags]
    assert main(["try", *flags, "--model.name", "micro"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], ("my/base", "abc123")), (["--revision", "v2"], ("my/base", "v2")), (["--base", "other/base"], ("other/base", None))],
)
def test_the_base_is_of_the_revision_that_the_adapter_names(flags, expected, adapter, tmp_path, monkeypatch):
    asked = []

    def loaded(name, dtype, device, revision, attn_implementation):
        asked.append((name, revision))
        return load_base("micro")

    monkeypatch.setattr("llgbm.zoo.base.load_base", loaded)
    shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    recorded = {"base_model_name_or_path": "my/base", "revision": "abc123"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**config, **recorded}))
    assert main(["try", str(tmp_path / "adapter"), "abc", "--max_new_tokens", "1", *flags]) == 0
    assert asked == [expected]


def test_adapters_are_needed_and_named_otherwise_than_the_base(adapter):
    with pytest.raises(InputError, match="adapters are none; give at least one"):
        SideBySide(load_base("micro"), {})
    with pytest.raises(InputError, match="PEFT cannot put this adapter on base micro"):
        SideBySide(load_base("micro"), {"broken": adapter.parent})


def test_an_adapter_that_names_no_base_asks_for_one(adapter, tmp_path):
    name, revision = base_of(adapter)
    assert name.endswith("micro/base")
    assert revision is None
    config = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(InputError, match=r"names no base; give one with --base"):
        base_of(tmp_path)


def test_a_revision_that_leads_out_of_its_folder_is_refused(adapter, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    for revision, known in (("refs/pr/1", "refs/pr/1"), ("", None)):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "revision": revision}))
        assert base_of(tmp_path)[1] == known
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "revision": "../../elsewhere"}))
    with pytest.raises(InputError, match=r"revision '\.\./\.\./elsewhere': part '\.\.' is a step in a path"):
        base_of(tmp_path)
