"""Soft prompts: virtual tokens are read as tokens are, and a writer of them is trained, saved and evaluated like a generator."""

import json
from pathlib import Path

import pytest
import torch
from tolerance import assert_near, depth
from training_world import build_world, changed

from llgbm.cli import main
from llgbm.config import ExperimentConfig
from llgbm.dataset import TokenBatch
from llgbm.errors import InputError
from llgbm.evaluation.methods import choose_methods
from llgbm.evaluation.setting import EvaluationConfig, load_setting
from llgbm.evaluation.task_eval import evaluate
from llgbm.files import hash_file, read_json
from llgbm.functional_lora import FunctionalLoRA
from llgbm.functional_lora.virtual import prefixed, virtual_tokens
from llgbm.lora.peft_io import target_shapes
from llgbm.models.soft_prompt import SoftPromptWriter
from llgbm.scoring import score
from llgbm.training.soft_prompt import SoftPromptProblem, train_soft_prompt
from llgbm.zoo.base import load_base


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    return build_world(tmp_path_factory.mktemp("world"), n_unseen=2)


@pytest.fixture(scope="module")
def functional(config: ExperimentConfig) -> FunctionalLoRA:
    model = load_base(config.model.name).model
    return FunctionalLoRA(model, target_shapes(model, ["q_proj"]))


@pytest.fixture
def batch() -> TokenBatch:
    ids = torch.randint(8, 40, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    labels = torch.where(torch.arange(9) > 4, ids, -100).masked_fill(mask == 0, -100)
    return TokenBatch(ids, mask, labels)


def test_virtual_tokens_that_are_tokens_are_read_as_these(functional: FunctionalLoRA, batch: TokenBatch) -> None:
    real = torch.tensor([[10, 11, 12], [20, 21, 22]])
    vectors = functional.model.get_input_embeddings().weight[real]
    owners = [0, 0, 1, 1]
    before = (real[owners], torch.ones(4, 3, dtype=torch.long), torch.full((4, 3), -100))
    after = (batch.input_ids, batch.attention_mask, batch.labels)
    shown = TokenBatch(*(torch.cat(parts, 1) for parts in zip(before, after, strict=True)))
    expected = score(functional, None, shown)
    with virtual_tokens(functional, vectors):
        found = score(functional, None, prefixed(functional, batch, owners, 3))
    assert torch.equal(found.exact, expected.exact)
    assert_near(found.nll_sum, expected.nll_sum, length=24, depth=depth(2), scale=100.0)


def test_the_base_is_as_it_was_afterwards_and_gradients_reach_the_vectors(functional: FunctionalLoRA, batch: TokenBatch) -> None:
    before = functional(None, batch.input_ids, batch.attention_mask, logits_at=batch.predicts).logits
    vectors = torch.randn(4, 3, 16, requires_grad=True)
    with virtual_tokens(functional, vectors):
        shown = prefixed(functional, batch, [0, 1, 2, 3], 3)
        logits = functional(None, shown.input_ids, shown.attention_mask, logits_at=shown.predicts).logits
        logits.logsumexp(1)[: int(batch.predicts[0].sum())].sum().backward()
    assert vectors.grad[0].abs().sum() > 0
    assert not vectors.grad[1:].any()  # each row reads its own task's
    assert torch.equal(functional(None, batch.input_ids, batch.attention_mask, logits_at=batch.predicts).logits, before)


def test_a_part_of_a_step_has_the_loss_of_the_whole(config: ExperimentConfig) -> None:
    problem = SoftPromptProblem(changed(config, objective__agreement=1.0), torch.device("cpu"))
    problem.ready(lambda now: None)
    plan = problem.plan(0)
    with torch.no_grad():
        problem.network.head.weight.normal_()
        whole, terms = problem.loss(problem.network, plan, 0)
        parts = [problem.loss(problem.network, plan.part(i, i + 2), 0)[0] for i in range(0, len(plan), 2)]
    assert set(terms) == {"sft", "agreement"}
    assert_near(torch.stack(parts).mean(), whole, length=100, depth=50)


def test_training_learns_and_goes_on_to_the_same_bits(config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = changed(config, training__total_steps=30, training__save_interval=10, training__eval_interval=30, training__learning_rate=1e-2)
    whole = train_soft_prompt(changed(longer, output_dir=str(tmp_path / "whole")))
    lines = map(json.loads, (whole.folder / "metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in lines if "loss" in row]
    assert sum(losses[-5:]) < sum(losses[:5])  # a random base can be moved but little
    assert 0 <= whole.validation["score"] <= 1
    parts = changed(longer, output_dir=str(tmp_path / "parts"))
    with monkeypatch.context() as patch:
        patch.setattr(SoftPromptProblem, "plan", _stopping_at(15))
        with pytest.raises(KeyboardInterrupt):
            train_soft_prompt(parts)
    resumed = train_soft_prompt(parts, begin="resume")
    hashes = [hash_file(result.network / "model.safetensors") for result in (whole, resumed)]
    assert hashes[0] == hashes[1]
    assert SoftPromptWriter.from_pretrained(whole.folder).write([["a wish"], ["another", "wish"]]).shape == (2, 8, 16)


def _stopping_at(last: int):
    plan = SoftPromptProblem.plan

    def stopping(self: SoftPromptProblem, step: int):
        if step == last:
            raise KeyboardInterrupt
        return plan(self, step)

    return stopping


def test_it_is_trained_and_scored_from_the_command_line(config: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    place = ["--output_dir", str(tmp_path / "outputs"), "--experiment_name", "soft", "--checkpoint_folder", config.checkpoint_folder]
    assert main(["train", "--network", "soft_prompt", "--config", "smoke", *place]) == 0
    assert "--soft_prompt" in capsys.readouterr().out
    run, out = str(tmp_path / "outputs" / "soft"), tmp_path / "eval.json"
    flags = ["--checkpoint", "none", "--data_dir", config.checkpoint_folder, "--soft_prompt", run, "--output", str(out)]
    assert main(["evaluate", *flags, "--methods", "base", "soft_prompt", "--cache_dir", str(tmp_path / "cache")]) == 0
    document = read_json(out)
    assert set(document["splits"]["unseen_combination"]) == {"base", "soft_prompt"}
    trained = set(SoftPromptWriter.from_pretrained(run).spec.trained_on)
    assert {row["task"] for row in document["tasks"] if row["split"] == "seen"} == trained
    kept = len(document["splits"])  # by this writer's weights
    assert len(list((tmp_path / "cache").glob("scores-soft_prompt*"))) == kept


def test_its_scores_depend_on_the_wording(config: ExperimentConfig, tmp_path: Path) -> None:
    run = train_soft_prompt(changed(config, output_dir=str(tmp_path), training__learning_rate=1e-2)).folder
    splits = ("unseen_combination", "unseen_combination+chatter")
    found = evaluate(None, config.checkpoint_folder, EvaluationConfig(methods=("soft_prompt",), splits=splits, soft_prompt=str(run)))
    plain, chatty = ([score.nll for score in found.scores[split]["soft_prompt"]] for split in splits)
    assert plain != chatty


def test_without_a_writer_the_method_is_refused_by_name(config: ExperimentConfig) -> None:
    setting = load_setting(None, config.checkpoint_folder, EvaluationConfig(methods=("soft_prompt",)))
    with pytest.raises(InputError, match="method soft_prompt needs a trained writer of soft prompts; give --soft_prompt"):
        choose_methods(setting)
