"""Models of the hub: read from its cache as it lies on a disk without a network, and written to a stand-in that answers as the hub does."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, ModelHubMixin

from llgbm.cli import main
from llgbm.errors import InputError
from llgbm.files import hash_tensors, write_json
from llgbm.hub import fetched, on_hub
from llgbm.lora.peft_io import adapter_hash, target_shapes
from llgbm.models.cards import completed
from llgbm.models.encoder import HashingEncoder
from llgbm.models.ensemble import load_generator
from llgbm.models.generator import LoRAGenerator
from llgbm.models.writer import GeneratorSpec
from llgbm.zoo.base import load_base

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """The hub's cache with two revisions of a generator."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--org--gen"
    (repository / "refs").mkdir(parents=True)
    for seed, (branch, commit) in enumerate(COMMITS.items()):
        (repository / "refs" / branch).write_text(commit)
        make_generator(seed).save_pretrained(repository / "snapshots" / commit)
    return cache


@pytest.fixture(autouse=True)
def offline(cache, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))


def make_generator(seed: int) -> LoRAGenerator:
    base, encoder = load_base("micro"), HashingEncoder()
    shapes = target_shapes(base.model, ["q_proj"])
    torch.manual_seed(seed)
    generator = LoRAGenerator(GeneratorSpec(shapes, 2, 4.0, encoder.dim, encoder_id=encoder.content_id, base=base.identity), encoder)
    for head in generator.heads:
        torch.nn.init.normal_(head.write_b.weight)
    return generator


@pytest.mark.parametrize(
    ("name", "revision", "seed"),
    [("org/gen", "v1", 1), ("org/gen", "main", 0), ("hf://org/gen", None, 0), ("hf://org/gen@v1", None, 1), ("org/gen", "b" * 40, 1)],
)
def test_a_revision_of_a_generator_is_read_from_the_cache(name, revision, seed):
    loaded = LoRAGenerator.from_pretrained(name, revision=revision)
    expected = make_generator(seed).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items())


def test_commands_take_a_generator_of_the_hub(cache, tmp_path):
    said = ["generate", "--description", "Reverse it.", "--run"]
    assert main([*said, "hf://org/gen@v1", "--output", str(tmp_path / "of_hub")]) == 0
    assert main([*said, str(cache / "models--org--gen" / "snapshots" / COMMITS["v1"]), "--output", str(tmp_path / "here")]) == 0
    assert adapter_hash(tmp_path / "of_hub") == adapter_hash(tmp_path / "here")


def test_scores_of_a_generator_of_the_hub_go_to_outputs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--run", "hf://org/gen", "--backend", "lm-eval", "--tasks", "x", "--dry_run", "--json"]) == 0
    assert '"where": "outputs/eval_lm_main.json"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hf://org/nothing", r"hf://org/nothing: cannot be had from the hub \(.*cached snapshot.*\); check the name, the revision and the"),
        ("hf://org/gen@v9", r"hf://org/gen@v9: cannot be had from the hub \(.*cached snapshot"),
        ("hf://a/b/c", "'hf://a/b/c': is no name of the hub's; give hf://ORG/NAME or"),
        ("hf://", "'hf://': is no name of the hub's"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence_and_status_2(name, reason, tmp_path, capsys):
    with pytest.raises(InputError, match=f"^{reason}"):
        fetched(name)
    assert main(["generate", "--run", name, "--description", "Reverse it.", "--output", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_is_never_looked_for_on_the_hub():
    assert not on_hub("outputs/delta_multi")
    with pytest.raises(InputError, match="org/gen: no generator there"):
        load_generator("org/gen")


class StandIn(BaseHTTPRequestHandler):
    """What the hub answers to one who commits small files; it keeps them as its cache would."""

    cache: Path
    asked: list[str]

    def do_POST(self) -> None:
        self.asked.append(self.path)
        body = self.rfile.read(int(self.headers["content-length"]))
        parts = self.path.strip("/").split("/")
        if self.headers.get("authorization") != "Bearer hf_owner":
            self.answer({"error": "Invalid username or password."}, 401)
        elif parts[-1] == "create":
            self.answer({"url": "https://huggingface.co/new/gen"})
        elif parts[-1] == "validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif parts[-2] == "preupload":
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]})
        else:
            self.keep("--".join(["models", *parts[2:4]]), [json.loads(line) for line in body.splitlines()])
            self.answer({"commitUrl": f"https://huggingface.co/{parts[2]}/{parts[3]}/commit/1", "commitOid": "c" * 40})

    def keep(self, name: str, lines: list[dict]) -> None:
        snapshot = self.cache / name / "snapshots" / ("c" * 40)
        snapshot.mkdir(parents=True)
        for line in lines:
            if line["key"] == "file":
                (snapshot / line["value"]["path"]).write_bytes(base64.b64decode(line["value"]["content"]))
        (self.cache / name / "refs").mkdir()
        (self.cache / name / "refs" / "main").write_text("c" * 40)

    def answer(self, values: dict, status: int = 200) -> None:
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Path]:
    """The cache of a hub that can be written to; without a network again as soon as the test says so."""
    StandIn.cache = tmp_path / "written"
    with ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as server:
        StandIn.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(StandIn.cache))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_TOKEN", "hf_owner")
        yield StandIn.cache
        server.shutdown()
        thread.join()


def test_a_pushed_generator_comes_back_as_it_was_with_its_card(hub, tmp_path, monkeypatch, capsys):
    make_generator(3).save_pretrained(tmp_path / "run" / "generator")
    made = {"inputs": {"generator": hash_tensors(load_generator(tmp_path / "run").state_dict())}}
    document = {
        "made": made,
        "metrics": ["exact_match"],
        "splits": {"seen": {"generated": {"score": 0.75, "n_examples": 40}, "base": {}}, "mixture": {}},
    }
    (tmp_path / "eval_main.json").write_text(json.dumps(document))
    said = ["push", str(tmp_path / "run"), "new/gen", "--license", "mit", "--scores", str(tmp_path / "eval_main.json"), "--json"]
    assert main(said) == 0
    assert json.loads(capsys.readouterr().out) == {"commit": "https://huggingface.co/new/gen/commit/1"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded, expected = load_generator("hf://new/gen"), make_generator(3)
    assert all(torch.equal(tensor, expected.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    assert loaded.spec == expected.spec
    card = ModelCard.load(hub / "models--new--gen" / "snapshots" / ("c" * 40) / "README.md")
    assert (card.data.license, card.data.library_name, card.data.tags) == ("mit", "llgbm", ["llgbm", "lora"])
    (score,) = card.data.eval_results
    assert (score.dataset_name, score.metric_type, score.metric_value) == ("seen", "exact_match", 0.75)
    assert "| seen | exact_match | 0.750 | 40 |" in card.text
    assert "llgbm generate --run hf://new/gen" in card.text


def test_a_generator_is_pushed_as_the_hubs_own_mixin_pushes(hub, tmp_path, monkeypatch):
    generator = make_generator(3)
    assert isinstance(generator, ModelHubMixin)
    assert generator.push_to_hub("new/gen", "mit", branch="next") == "https://huggingface.co/new/gen/commit/1"
    assert StandIn.asked[-1] == "/api/models/new/gen/commit/next"
    pushed = hub / "models--new--gen" / "snapshots" / ("c" * 40)
    assert {path.name for path in pushed.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    generator.save_pretrained(tmp_path / "here")
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"config.json", "model.safetensors"}
    assert (pushed / "config.json").read_bytes() == (tmp_path / "here" / "config.json").read_bytes()


def test_a_pushed_adapter_has_what_was_asked_for_and_its_scores(hub, tmp_path, capsys):
    folder = tmp_path / "adapter"
    make_generator(3).save_pretrained(tmp_path / "run")
    assert main(["generate", "--run", str(tmp_path / "run"), "--description", "Reverse it.", "--output", str(folder)]) == 0
    rows = {"models": [{"model": "base", "asked": None, "adapter": None}]}
    rows["models"].append({"model": "generated", "asked": "Reverse it.", "adapter": adapter_hash(folder)})
    scores = [{**row, "task": "t", "metric": "acc", "value": 0.5 + i / 4, "n": 8} for i, row in enumerate(rows["models"])]
    (tmp_path / "eval_lm_main.json").write_text(json.dumps({"backend": "lm-eval", **rows, "scores": scores}))
    (folder / "private.txt").write_text("stays here")
    assert main(["push", str(folder), "new/adapter", "--license", "apache-2.0", "--scores", str(tmp_path / "eval_lm_main.json")]) == 0
    assert "pushed: https://huggingface.co/new/adapter/commit/1" in capsys.readouterr().out
    pushed = hub / "models--new--adapter" / "snapshots" / ("c" * 40)
    assert {path.name for path in pushed.iterdir()} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert adapter_hash(pushed) == adapter_hash(folder)
    card = ModelCard.load(pushed / "README.md")
    assert "> Reverse it." in card.text
    assert 'from_pretrained("new/adapter")' in card.text
    assert (card.data.license, card.data.library_name, card.data.base_model) == ("apache-2.0", "peft", None)  # micro is not on the hub
    assert [score.metric_value for score in card.data.eval_results] == [0.75]


def test_what_cannot_be_pushed_is_one_sentence_and_status_2(hub, tmp_path, monkeypatch, capsys):
    make_generator(3).save_pretrained(tmp_path / "run")
    said = ["push", str(tmp_path / "run"), "new/gen", "--license", "mit"]
    (tmp_path / "eval.json").write_text("{}")
    assert main([*said, "--scores", str(tmp_path / "eval.json")]) == 2
    assert "eval.json: holds no scores of this generator; give an eval_<name>.json of it" in capsys.readouterr().err
    scored = {"metrics": ["exact_match"], "splits": {"seen": {"generated": {"score": 0.75, "n_examples": 40}}}}
    write_json(tmp_path / "eval.json", {**scored, "made": {"inputs": {"generator": hash_tensors(make_generator(4).state_dict())}}})
    assert main([*said, "--scores", str(tmp_path / "eval.json")]) == 2
    assert "eval.json: holds no scores of this generator" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    assert main(said) == 2
    assert "new/gen: cannot be written to on the hub (" in capsys.readouterr().err
    assert main([*said[:2], "a/b/c", *said[3:]]) == 2
    assert "a/b/c: cannot be written to on the hub (Repo id must" in capsys.readouterr().err
    assert main(["push", str(tmp_path), "new/gen", "--license", "mit"]) == 2
    assert "no generator there" in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert main(said) == 2
    assert "new/gen: cannot be written to on the hub (" in capsys.readouterr().err
    assert not hub.exists()


@pytest.mark.parametrize(
    ("name", "found"),
    [("micro", None), ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"), ("org/base", "org/base"), ("/a/base", None), (None, None)],
)
def test_a_card_names_the_base_where_the_hub_has_one(name, found):
    assert ModelCard(completed("# x\n", "org/x", name, "peft", "mit")).data.base_model == found
