"""A generator that reads attributes: sums of effects write combinations that no teacher has, also where every teacher has its own A."""

import pytest
import torch
from safetensors.torch import load_file
from tolerance import assert_near
from training_world import build_world, changed

from llgbm.errors import InputError
from llgbm.lora.factors import LoRAFactors
from llgbm.losses import Evidence, attributes_loss
from llgbm.models.alignment import count_words
from llgbm.models.attribute_generator import SLOTS_SHARE, SLOTS_SHARE_OF_TOKENS, AttributeGenerator, usual_readers
from llgbm.models.effects import fit_effects, levels_of
from llgbm.models.encoder import HashingEncoder
from llgbm.models.ensemble import load_generator, one_generator, unite
from llgbm.models.generator import LoRAGenerator
from llgbm.models.reader import embed_conditions
from llgbm.models.reading import NOWHERE, in_one_domain, likeliest
from llgbm.models.writer import GeneratorSpec
from llgbm.training.behavior import BehaviorProblem, train_generator
from llgbm.training.step import generate

SHAPES = {"layers.0.q": (6, 5), "layers.1.q": (6, 5), "head": (4, 7)}
WIDTHS = {"length": 256, "depth": 8}
TASKS = [{"operation": o, "style": s} for o in "abc" for s in "xyz" if (o, s) != ("c", "z")]
UNSEEN = {"operation": "c", "style": "z"}


def additive_teachers() -> tuple[LoRAFactors, dict[str, torch.Tensor]]:
    """One teacher a task, whose B is a mean and an effect of each level; and the B that the unseen combination should have."""
    g = torch.Generator().manual_seed(0)
    zoo = LoRAFactors.initialize(SHAPES, 2, 4.0, len(TASKS), g)
    unseen = {}
    for name, b in zoo.b.items():
        zoo.a[name][:] = zoo.a[name][:1]
        effect = {level: torch.randn(b.shape[1:], generator=g) for level in "abcxyz"}
        for k, task in enumerate(TASKS):
            b[k] = 1 + effect[task["operation"]] + effect[task["style"]]
        unseen[name] = 1 + effect["c"] + effect["z"]
    return zoo, unseen


def new_generator(**changes) -> AttributeGenerator:
    torch.manual_seed(0)
    spec = GeneratorSpec(SHAPES, 2, 4.0, 64, **{"attributes": levels_of(TASKS), "known_texts": 3 * len(TASKS), **changes})
    generator = one_generator(spec, HashingEncoder(64))
    assert isinstance(generator, AttributeGenerator)
    return generator.eval()


def let_slots_speak(generator: AttributeGenerator) -> None:
    """They say nothing before they are trained."""
    for slot, namer in enumerate(namer for reader in generator.readers for namer in reader.namers):
        torch.nn.init.normal_(namer[-1].weight, generator=torch.Generator().manual_seed(slot))


def let_slots_be_silent(generator: AttributeGenerator) -> None:
    for namer in (namer for reader in generator.readers for namer in reader.namers):
        torch.nn.init.zeros_(namer[-1].weight)


TEXTS = [list(of_task) for of_task in torch.randn(len(TASKS), 3, 1, 64, generator=torch.Generator().manual_seed(3))]


def change(factors: LoRAFactors, name: str, k: int) -> torch.Tensor:
    return factors.scaling[name][k] * factors.b[name][k] @ factors.a[name][k]


def told(generator: AttributeGenerator, tasks: list[dict[str, str]]) -> LoRAFactors:
    """What is written for attributes that are certain."""
    return generator.write(generator.levels(tasks))


def test_effects_of_levels_say_a_combination_that_no_teacher_has():
    zoo, unseen = additive_teachers()
    generator = new_generator()
    generator.fit(zoo, TASKS, TEXTS)
    written = told(generator, [*TASKS, UNSEEN])
    for name in SHAPES:
        for k in range(len(TASKS)):
            assert (change(written, name, k) - change(zoo, name, k)).norm() < 0.05 * change(zoo, name, k).norm()
        expected = 2.0 * unseen[name] @ zoo.a[name][0]
        assert (change(written, name, -1) - expected).norm() < 0.05 * expected.norm()


def test_b_is_fitted_to_one_a_whatever_each_teachers_own():
    zoo, _ = additive_teachers()
    turned = LoRAFactors({**zoo.a}, {**zoo.b}, zoo.scaling, zoo.ranks)
    turns = torch.linalg.qr(torch.randn(len(TASKS), 2, 2, generator=torch.Generator().manual_seed(1))).Q
    for name in SHAPES:
        turned.a[name], turned.b[name] = turns @ zoo.a[name], zoo.b[name] @ turns.mT
    generator = new_generator()
    generator.fit(turned, TASKS, TEXTS)
    written = told(generator, TASKS)
    for name in SHAPES:
        assert (change(written, name, 0) - change(zoo, name, 0)).norm() < 0.05 * change(zoo, name, 0).norm()


def test_effects_are_differences_and_the_mean_is_of_all_teachers():
    fitted = fit_effects(torch.eye(2).repeat(3, 2))
    assert_near(fitted.mean, torch.full((6,), 1 / 6), length=6, depth=4)
    assert_near(fitted.weights.sum(1), torch.zeros(4), scale=1.0, length=6, depth=4)
    assert fitted.weights[0, 0] > 0 > fitted.weights[0, 1]


def test_levels_come_by_name_and_what_is_unknown_is_zero():
    generator = new_generator()
    assert generator.spec.attributes == {"operation": ["a", "b", "c"], "style": ["x", "y", "z"]}
    rows = generator.levels([{"operation": "b", "style": "z"}, {"operation": "new"}])
    assert rows.tolist() == [[0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]]


def test_each_attribute_is_read_by_a_slot_and_its_levels_are_probabilities():
    generator = new_generator()
    asked = embed_conditions(HashingEncoder(64), [["reverse it"], ["sort it, please"]])
    said = generator.say(*asked).exp()
    assert_near(said[:, :3].sum(1), torch.ones(2), **WIDTHS)
    assert_near(said[:, 3:].sum(1), torch.ones(2), **WIDTHS)
    alone = tuple(part[:1] for part in asked)
    factors, own, others = generator(*asked, again=alone)
    assert_near(own[0], said.log(), **WIDTHS)
    assert_near(others[0], said[:1].log(), **WIDTHS)
    assert factors.n_adapters == 2


def test_a_regression_reads_before_any_training():
    zoo, _ = additive_teachers()
    generator, wishes = new_generator(known_texts=len(TASKS)), torch.randn(6, 64, generator=torch.Generator().manual_seed(4))
    vectors = (generator.levels([*TASKS, UNSEEN]) @ wishes)[:, None]
    generator.fit(zoo, TASKS, [[vector] for vector in vectors[:-1]])
    said = generator.say(vectors, torch.ones(len(vectors), 1, dtype=torch.bool))
    right = generator.levels([*TASKS, UNSEEN])
    for part, expected in zip(said.split(generator.counts, 1), right.split(generator.counts, 1), strict=True):
        assert part.argmax(1).equal(expected.argmax(1))  # also of the task that it does not know
    assert (said.exp() * right).sum(1)[:-1].min().item() > 1.9


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_slots_learn_alone_and_add_to_the_regression(share: float):
    zoo, _ = additive_teachers()
    generator, asked = new_generator(slots_share=share), embed_conditions(HashingEncoder(64), [["reverse it"], ["sort it, please"]])
    generator.fit(zoo, TASKS, TEXTS)
    let_slots_speak(generator)
    together, (alone,) = generator.say(*asked), generator.by_slots(*asked)
    for learned in generator(*asked, again=asked)[1:]:
        assert torch.equal(learned[0], alone)
    let_slots_be_silent(generator)
    regressed, (nothing,) = generator.say(*asked), generator.by_slots(*asked)
    assert_near(nothing.exp(), torch.full_like(alone, 1 / 3), **WIDTHS)
    both = torch.cat([part.log_softmax(-1) for part in (share * alone + regressed).split(generator.counts, 1)], 1)
    assert_near(together, both, scale=12.0, **WIDTHS)


def aligned_generator() -> tuple[AttributeGenerator, HashingEncoder]:
    """One that knows the words of every task, and what they are hashed by."""
    encoder = HashingEncoder(64)
    texts = [encoder.encode([f"{task['operation']}op now", f"please {task['operation']}op {task['style']}ly"]) for task in TASKS]
    generator = new_generator(known_texts=2 * len(TASKS), known_words=count_words(texts, 64), word_width=64)
    generator.fit(additive_teachers()[0], TASKS, texts)
    return generator, encoder


def test_what_words_say_adds_to_the_regression_once_trained():
    generator, encoder = aligned_generator()
    asked = embed_conditions(encoder, [["please cop zly"], ["aop"]])
    assert generator.alignment is not None
    words, together, alone = generator.alignment.say(*asked), generator.say(*asked), generator.by_slots(*asked)
    generator.alignment = None
    regressed = generator.say(*asked)
    both = torch.cat([part.log_softmax(-1) for part in (regressed + words).split(generator.counts, 1)], 1)
    assert_near(together, both, scale=12.0, **WIDTHS)
    assert_near(alone.exp(), torch.full_like(alone, 1 / 3), **WIDTHS)  # slots say nothing so far
    assert words.split(generator.counts, 1)[0].argmax(1).tolist() == [2, 0]


def test_slots_count_as_far_as_known_words_are_missing():
    generator, encoder = aligned_generator()
    assert generator.alignment is not None
    asked = embed_conditions(encoder, [["please cop zly"], ["aop"], ["something else"]])
    silent = generator.say(*asked)
    let_slots_speak(generator)
    together, (slots,), found = generator.say(*asked), generator.by_slots(*asked), generator.alignment.read(*asked)[1]
    assert found[0].item() > 0.9 > 0.7 > found[1].item() > found[2].item()
    both = silent + (1 - found) * generator.spec.slots_share * slots
    assert_near(together, torch.cat([part.log_softmax(-1) for part in both.split(generator.counts, 1)], 1), scale=12.0, **WIDTHS)


def test_the_regression_reads_what_a_text_says_and_slots_what_its_words_mean():
    zoo, _ = additive_teachers()
    generator = new_generator(token_widths=[24])
    generator.fit(zoo, TASKS, TEXTS)
    let_slots_speak(generator)
    vectors, mask = torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(4)), torch.ones(3, 2, dtype=torch.bool)
    text, meaning = vectors.clone(), vectors.clone()
    text[..., :40] += 1
    meaning[..., 40:] += torch.randn(3, 2, 24, generator=torch.Generator().manual_seed(5))
    by_slots = [generator.by_slots(some, mask) for some in (vectors, text, meaning)]
    assert torch.equal(by_slots[0], by_slots[1])
    assert (by_slots[0] - by_slots[2]).abs().max().item() > 0.1
    let_slots_be_silent(generator)
    regressed = [generator.say(some, mask) for some in (vectors, text, meaning)]
    assert torch.equal(regressed[0], regressed[2])
    assert (regressed[0] - regressed[1]).abs().max().item() > 0.1
    assert generator.known.shape == (3 * len(TASKS), 40)


def test_readers_of_the_same_vectors_count_in_the_mean_and_another_models_adds_to_it():
    zoo, _ = additive_teachers()
    generator = new_generator(token_widths=[12, 12], readers=2, slots_share=0.5)
    generator.fit(zoo, TASKS, TEXTS)
    asked = torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(4)), torch.ones(3, 2, dtype=torch.bool)
    regressed = generator.say(*asked)
    let_slots_speak(generator)
    each = generator.by_slots(*asked)
    assert each.shape == (4, 3, 6)
    assert min((one - other).abs().max().item() for i, one in enumerate(each) for other in each[:i]) > 0.1
    both = regressed + 0.5 * (each[:2].mean(0) + each[2:].mean(0))
    together = torch.cat([part.log_softmax(-1) for part in both.split(generator.counts, 1)], 1)
    assert_near(generator.say(*asked), together, scale=12.0, **WIDTHS)
    for first, readers in ((40, {0, 1}), (52, {2, 3})):
        vectors = asked[0].clone()
        vectors[..., first : first + 12] += torch.randn(3, 2, 12, generator=torch.Generator().manual_seed(5))
        again = generator.by_slots(vectors, asked[1])
        assert {i for i in range(4) if not torch.equal(again[i], each[i])} == readers


def test_slots_look_at_tokens_alone():
    """A text may have more words than tokens: vectors behind the last token have none."""
    generator = new_generator(token_widths=[24])
    let_slots_speak(generator)
    vectors, mask = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(4)), torch.ones(3, 4, dtype=torch.bool)
    vectors[:, 2:, 40:] = 0
    assert_near(generator.by_slots(vectors, mask), generator.by_slots(vectors[:, :2], mask[:, :2]), **WIDTHS)
    two = new_generator(token_widths=[16, 8])
    let_slots_speak(two)
    vectors[:, 1:, 56:] = 0  # of the second model
    for reader, n in ((0, 2), (1, 1)):
        assert_near(two.by_slots(vectors, mask)[reader], two.by_slots(vectors[:, :n], mask[:, :n])[reader], **WIDTHS)
    vectors[0, :, 40:] = 0
    assert generator.by_slots(vectors, mask).isfinite().all()  # of a text of which only words behind the last token are left


def test_levels_of_two_domains_are_not_read_together_once_trained():
    zoo, _ = additive_teachers()
    generator = new_generator()
    generator.fit(zoo, TASKS, TEXTS)
    asked = torch.randn(5, 2, 64, generator=torch.Generator().manual_seed(4)), torch.ones(5, 2, dtype=torch.bool)
    apart = generator.say(*asked)
    generator.spec.homes = [0, 1, 1, 0, 1, 1]
    together = generator.say(*asked)
    places = likeliest(together, generator.counts) % 3
    assert (likeliest(apart, generator.counts) % 3 == 0).sum(1).tolist().count(1) > 0, "no request mixes domains, so this shows nothing"
    assert ((places == 0).sum(1) != 1).all()
    assert_near(together, in_one_domain(apart, generator.counts, generator.spec.homes), scale=100.0, **WIDTHS)
    assert_near(generator.by_slots(*asked).exp(), torch.full_like(apart[None], 1 / 3), **WIDTHS)


def test_generators_that_know_other_words_unite(tmp_path):
    zoo, _ = additive_teachers()
    encoder, members = HashingEncoder(64), []
    for k, more in enumerate(([], ["and a few words more"])):
        texts = [encoder.encode([f"please {task['operation']}op {task['style']}ly", *more]) for task in TASKS]
        member = new_generator(known_texts=2 * len(TASKS), known_words=count_words(texts, 64), word_width=64)
        member.fit(zoo, TASKS, [group if more else group * 2 for group in texts])
        member.save_pretrained(tmp_path / str(k))
        members.append(member)
    both = unite([tmp_path / "0", tmp_path / "1"])
    both.save_pretrained(tmp_path / "both")
    again = load_generator(tmp_path / "both", encoder)
    asked = embed_conditions(encoder, [["please cop zly"]])
    for member, kept in zip(members, again.members, strict=True):
        assert_near(kept.say(*asked), member.say(*asked), scale=12.0, **WIDTHS)
    new_generator(known_texts=2 * len(TASKS)).save_pretrained(tmp_path / "none")
    with pytest.raises(InputError, match="its known_words is not that of"):
        unite([tmp_path / "0", tmp_path / "none"])


def test_generators_that_saw_their_tasks_in_another_order_unite(tmp_path):
    for k, order in enumerate((range(len(TASKS)), reversed(range(len(TASKS))))):
        new_generator(attributes=levels_of([TASKS[i] for i in order])).save_pretrained(tmp_path / str(k))
    assert unite([tmp_path / "0", tmp_path / "1"]).spec.members == 2


def test_it_comes_back_from_its_folder(tmp_path):
    zoo, _ = additive_teachers()
    generator = new_generator(token_widths=[12, 8], readers=2, known_words=count_words(TEXTS, 64), word_width=64)
    generator.fit(zoo, TASKS, TEXTS)
    generator.save_pretrained(tmp_path)
    again = load_generator(tmp_path, HashingEncoder(64))
    assert type(again) is AttributeGenerator
    for ours, theirs in zip(generator.generate(description="sort").tensors(), again.generate(description="sort").tensors(), strict=True):
        assert ours.equal(theirs)


def test_naming_attributes_counts_those_that_tasks_have():
    said = torch.tensor([[[0.5, 0.5, 0.25, 0.75], [1.0, 1e-9, 0.5, 0.5]], [[1.0, 1e-9, 1e-9, 1.0], [0.5, 0.5, 0.5, 0.5]]]).log()
    levels = torch.tensor([[1.0, 0, 0, 1], [1.0, 0, 0, 0]])
    found = attributes_loss(Evidence(additive_teachers()[0], said=said, levels=levels))
    by_one, by_other = torch.tensor([0.5, 0.75]).log().sum(), torch.tensor([0.5]).log().sum()
    assert_near(found, -(by_one + by_other) / 2 / 3, length=4, depth=2)
    with pytest.raises(InputError, match="objective attributes has nothing to compare: no attributes of tasks were given"):
        attributes_loss(Evidence(additive_teachers()[0], said=said))


ASKED = {"generator__attributes": True, "objective__attributes": 1.0, "objective__agreement": 1.0}


def test_training_names_attributes_and_keeps_the_start_by_effects(tmp_path):
    config = changed(build_world(tmp_path), **ASKED)
    result = train_generator(changed(config, training__total_steps=40, training__eval_interval=40))
    kept = load_generator(result.network)
    assert list(kept.spec.attributes) == ["operation", "style", "wrapper"]
    rows = [line for line in (config.run_folder / "metrics.jsonl").read_text().splitlines() if "loss/attributes" in line]
    assert "loss/agreement" not in rows[0]
    losses = [float(row.split('"loss/attributes": ')[1].split(",")[0].rstrip("}")) for row in rows]
    assert losses[-1] < 0.5 * losses[0]  # slots learn what the regression knows from the start
    assert torch.isfinite(load_file(result.network / "model.safetensors")["effects.model/layers/0/mlp/down_proj.of_levels"]).all()


@pytest.mark.parametrize(
    ("name", "share", "readers"),
    [("hashing", SLOTS_SHARE, 1), ("hashing+minilm", SLOTS_SHARE_OF_TOKENS, usual_readers(True))],
)
def test_slots_count_by_what_they_alone_read_or_as_asked(tmp_path, name, share, readers):
    config = changed(build_world(tmp_path), **ASKED, generator__encoder=name)
    for asked, counts, often, times in ((None, share, None, readers), (0.5, 0.5, 2, 2)):
        problem = BehaviorProblem(
            changed(config, generator__slots_share=asked, generator__readers=often), {"attributes": 1.0}, torch.device("cpu")
        )
        problem.ready(lambda now: None)
        spec, encoder = problem.network.spec, problem.setup.encoder
        assert (spec.slots_share, spec.readers, spec.token_widths) == (counts, times, list(encoder.token_widths))
        assert spec.homes == [NOWHERE] * sum(map(len, spec.attributes.values()))  # all tasks are of one domain


@pytest.mark.parametrize("terms", [{"attributes": 1.0, "kl": 1.0}, {"kl": 1.0}])
def test_every_parameter_that_is_trained_has_a_gradient_at_each_step(tmp_path, terms):
    """Processes that train together wait for all of them."""
    problem = BehaviorProblem(changed(build_world(tmp_path), **ASKED), terms, torch.device("cpu"))
    problem.ready(lambda now: None)
    problem.loss(problem.network, problem.plan(0), 0)[0].backward()
    assert [name for name, value in problem.network.named_parameters() if value.requires_grad and value.grad is None] == []
    assert all(value.requires_grad == ("attributes" in terms) for value in problem.network.readers.parameters())


def test_parts_of_a_step_add_up_to_what_it_says_of_attributes(tmp_path):
    problem = BehaviorProblem(changed(build_world(tmp_path), **ASKED), {"attributes": 1.0}, torch.device("cpu"))
    problem.ready(lambda now: None)
    let_slots_speak(problem.network)
    plan = problem.plan(0)
    problem.levels[plan.teachers[0], : problem.network.counts[0]] = 0.0  # it lacks an attribute
    whole = problem.loss(problem.network, plan, 0)[0]
    parts = [plan.part(0, 1), plan.part(1, 4)]
    shares = [problem.loss(problem.network, part, 0)[0] * len(part) / len(plan) for part in parts]
    assert_near(sum(shares), whole, **WIDTHS)
    evidence = generate(problem.network, plan, problem.setup.train, problem.setup.conditions, torch.device("cpu"), True, problem.rereading)
    assert torch.equal(whole, attributes_loss(Evidence(**{**evidence, "levels_asked": None})))


def test_a_suite_without_attributes_gets_the_other_generator(tmp_path):
    config = changed(build_world(tmp_path, attributes=False), **ASKED)
    result = train_generator(config)
    assert type(load_generator(result.network)) is LoRAGenerator
    assert "loss/attributes" not in (config.run_folder / "metrics.jsonl").read_text()


def test_a_step_reads_each_task_in_as_many_other_wordings_as_asked(tmp_path):
    config, found = changed(build_world(tmp_path), **ASKED), []
    for readings in (1, 3):
        torch.manual_seed(0)
        problem = BehaviorProblem(changed(config, training__readings=readings), {"attributes": 1.0}, torch.device("cpu"))
        problem.ready(lambda now: None)
        assert isinstance(problem.network, AttributeGenerator)
        for namer in problem.network.readers[0].namers:
            torch.nn.init.constant_(namer[-1].weight[0], 0.1)
        plan, setup = problem.plan(0), problem.setup
        read = generate(problem.network, plan, setup.train, setup.conditions, torch.device("cpu"), True, problem.rereading)
        _, *others = read["said"][0].split(len(plan))
        assert len(others) == readings == len({tuple(rows.flatten().tolist()) for rows in others})
        assert all(rows.equal(read["levels"][: len(plan)]) for rows in read["levels"].split(len(plan)))
        found.append((others[0], problem.loss(problem.network, plan, 0)[0].item()))
    assert_near(found[0][0], found[1][0], **WIDTHS)
    assert found[0][1] != found[1][1]
