"""Changes that leak or cheat, and the test that has to notice each.

A mutant replaces one piece of one file. When code moves, mend `old` so that it matches exactly once again: a short piece of
the line that carries the rule. A rule that is gone takes its mutant along.
"""

from dataclasses import dataclass

LEAKS, FANOUT = "test_leaks.py", "test_fanout.py"


@dataclass(frozen=True)
class Mutant:
    """One wrong change."""

    name: str
    file: str
    """Below `llgbm/`."""
    old: str
    """Occurs exactly once in the file."""
    new: str
    caught_by: str
    """Test file and test below `tests/unit`, as pytest names them."""


def _leak(name: str, file: str, old: str, new: str, test: str) -> Mutant:
    return Mutant(name, file, old, new, f"{LEAKS}::{test}")


SETUP, SETTING, METHODS, RIDGE = "training/setup.py", "evaluation/setting.py", "evaluation/methods.py", "evaluation/ridge.py"
MULTITASK = "evaluation/multitask.py"
WORDS = "zoo/words/world.py"
PRACTICE = "training/practice.py"
ON_SEEN = "test_training_and_validation_are_on_seen_tasks_and_share_none"
TRAIN_SIDE = "test_training_and_validation_read_train_examples_of_their_own_tasks"
TEXTS = "test_no_text_of_an_unseen_wording_or_task_is_read_in_training"
POOL = "test_the_pool_is_the_seen_teachers_the_generator_trained_on"
SHOWN = "test_demonstrations_are_train_examples_other_than_the_query"
LESSON = "test_a_teachers_lesson_is_of_train_examples_and_keeps_its_validation_apart"
BLIND = "test_the_blind_multitask_lora_learns_from_train_examples_of_the_pool"
CHOSEN = "test_ridges_know_and_are_chosen_on_tasks_of_the_pool_alone"
RETRIEVAL = "test_retrieval_never_answers_with_what_an_unseen_teacher_knows"

MUTANTS = (
    # Training
    _leak("training on every teacher", SETUP, 'zoo.select(split="seen")', "zoo.select()", ON_SEEN),
    _leak(
        "held-back tasks in training", SETUP, "held, rest = names[:n_held], names[n_held:]", "held, rest = names[:n_held], names", ON_SEEN
    ),
    _leak(
        "checkpoint chosen on unseen tasks",
        SETUP,
        "_teacher_set(zoo, base, held_back, ",
        '_teacher_set(zoo, base, zoo.select(split="unseen_combination"), ',
        ON_SEEN,
    ),
    _leak(
        "training and validation on test examples",
        SETUP,
        'framing.of_task(task, "train") for task in tasks',
        'framing.of_task(task, "test") for task in tasks',
        TRAIN_SIDE,
    ),
    _leak(
        "output scales of all teachers",
        SETUP,
        "generator.fit_scale(factors)",
        "generator.fit_scale(setup.zoo.factors(setup.zoo.teachers))",
        "test_scales_are_those_of_the_teachers_trained_on",
    ),
    _leak(
        "trained_on that names every task",
        SETUP,
        '"trained_on": sorted(set(setup.train.task_names))',
        '"trained_on": sorted(setup.zoo.suite.tasks)',
        "test_a_generator_says_what_it_was_trained_and_judged_on",
    ),
    _leak(
        "unseen descriptions in training",
        "training/conditions.py",
        "(task.description, *task.paraphrases)",
        "(task.description, *task.paraphrases, *task.unseen_paraphrases)",
        TEXTS,
    ),
    _leak(
        "unseen prompts in training",
        "training/conditions.py",
        "task.prompts if condition !=",
        "(*task.prompts, *task.unseen_prompts) if condition !=",
        TEXTS,
    ),
    _leak(
        "predictor scaled on held-back fingerprints",
        "training/fingerprint.py",
        "engine, self.targets.cpu())",
        "engine, deltas.cpu())",
        "test_the_predictor_knows_the_fingerprints_of_the_tasks_it_trained_on_alone",
    ),
    _leak(
        "resuming with another zoo",
        "training/checkpoints.py",
        '"zoo_hash": zoo.content_hash}',
        '"zoo_hash": ""}',
        "test_a_run_is_not_resumed_with_another_zoo",
    ),
    # Teachers, base and tasks
    _leak("teachers trained on test examples", "zoo/trainer.py", 'framing.of_task(task, "train")', 'framing.of_task(task, "test")', LESSON),
    _leak("teachers validated on what they train on", "zoo/trainer.py", "Lesson(tokens.rows(slice(0, split)),", "Lesson(tokens,", LESSON),
    _leak(
        "test payloads in the base's pretraining",
        "zoo/micro/pretraining.py",
        "task.example(rng, test=False)",
        "task.example(rng, test=True)",
        "test_pretraining_shows_train_payloads_only",
    ),
    _leak(
        "payloads on both sides",
        "zoo/micro/world.py",
        "if is_test_payload(payload) == test:",
        "if payload:",
        "test_no_payload_is_on_both_sides",
    ),
    _leak(
        "test payloads in prompts",
        "zoo/micro/world.py",
        "self.example(rng, test=False).input if payload",
        "self.example(rng, test=True).input if payload",
        "test_no_payload_is_on_both_sides",
    ),
    _leak(
        "no combination held out",
        "zoo/micro/world.py",
        "(operation + style + 2 * wrapper) % 5 == 0",
        "False",
        "test_unseen_combinations_are_no_seen_tasks",
    ),
    Mutant(
        "test inputs in practice",
        PRACTICE,
        "task.train[: train.per_teacher]]",
        "task.test[: train.per_teacher]]",
        "test_practice.py::test_inputs_are_those_that_teachers_were_trained_on",
    ),
    Mutant(
        "any flag from an evaluation's file",
        "studies/stages.py",
        "if name not in known or any(",
        "if any(",
        "test_reproduce.py::test_choices_of_a_file_are_no_other_flags",
    ),
    Mutant(
        "flags among an evaluation's choices",
        "studies/stages.py",
        'any(text.startswith("-") for text in texts)',
        "False",
        "test_reproduce.py::test_choices_of_a_file_are_no_other_flags",
    ),
    Mutant(
        "practice on the teachers' own combinations",
        PRACTICE,
        "part[rng.choice(self.alike[k])]",
        "part[k]",
        "test_practice.py::test_levels_are_mixed_within_a_domain_and_one_of_each_attribute",
    ),
    Mutant(
        "word payloads on both sides",
        WORDS,
        "if is_test_payload(payload.text) == test:",
        "if payload:",
        "test_words.py::test_train_and_test_share_no_payload",
    ),
    Mutant(
        "test payloads in requests for words",
        WORDS,
        "self.example(rng, KNOWN, test=False).input if asks",
        "self.example(rng, KNOWN, test=True).input if asks",
        "test_words.py::test_train_and_test_share_no_payload",
    ),
    Mutant(
        "new words that are answers in training",
        "zoo/words/lexicon.py",
        "if not {*group} & {*FOODS, *IN_WORDINGS}]",
        "]",
        "test_words.py::test_new_words_are_in_no_training_and_new_lists_have_known_words_alone",
    ),
    Mutant(
        "a held value in seen tasks",
        "zoo/words/values.py",
        "VERB_FORMS[verb][1]), held=True)",
        "VERB_FORMS[verb][1]))",
        "test_words.py::test_held_values_are_in_no_seen_task_and_each_of_the_others_is",
    ),
    Mutant(
        "further sets of test examples not asked",
        SETTING,
        "Question(task.tested_on(test), split)",
        "Question(task, split)",
        "test_splits.py::test_everything_is_reported_under_its_own_name",
    ),
    # Controls
    _leak("demonstrations from test examples", SETTING, "rng.sample(task.train, ", "rng.sample(task.test, ", SHOWN),
    _leak(
        "demonstrations that answer the query",
        SETTING,
        "self.framing.shown(example, shown) for example, shown in",
        "self.framing.shown(example, [example] * 3) for example, shown in",
        SHOWN,
    ),
    _leak("unseen teachers in the pool", SETTING, 'if t.split == "seen" and (trained_on', 'if t.split != "mixture" and (trained_on', POOL),
    _leak(
        "mixture teachers in the pool",
        SETTING,
        'if t.split == "seen" and (trained_on',
        'if t.split != "unseen_combination" and (trained_on',
        POOL,
    ),
    _leak("held-back teachers in the pool", SETTING, "(trained_on is None or t.task in trained_on)", "t.task", POOL),
    _leak(
        "retrieval among all teachers",
        SETTING,
        "return self.zoo.factors(self.pool)",
        "return self.zoo.factors(self.zoo.teachers[::-1])",
        RETRIEVAL,
    ),
    _leak(
        "nearest that answers with the task's own teacher",
        METHODS,
        "return Attempt(setting.pool_factors.select(similarities.argmax(1)), _plain(setting, questions))",
        "return teacher(setting, questions)",
        RETRIEVAL,
    ),
    _leak(
        "ridge fitted on all teachers",
        RIDGE,
        "Blender(pool.to(",
        "Blender(setting.zoo.factors([*setting.teachers.values()][-pool.n_adapters :]).to(",
        RETRIEVAL,
    ),
    _leak(
        "ridge strength chosen on unseen tasks",
        RIDGE,
        "chosen_on = [tasks[k] for held in held_out for k in held]",
        'chosen_on = [task for task in setting.zoo.suite if task.split == "unseen_combination"][:1] * sum(map(len, held_out))',
        CHOSEN,
    ),
    _leak(
        "ridge strength chosen on test examples",
        RIDGE,
        'framing.of_task(task, "train")[:VALIDATION_EXAMPLES]',
        'framing.of_task(task, "test")[:VALIDATION_EXAMPLES]',
        "test_ridges_are_judged_on_train_examples",
    ),
    _leak(
        "multi-task LoRA trained on unseen tasks",
        MULTITASK,
        "for teacher in setting.pool:",
        "for teacher in setting.teachers.values():",
        BLIND,
    ),
    _leak(
        "multi-task LoRA trained on test examples",
        MULTITASK,
        'setting.zoo.suite[teacher.task], "train")',
        'setting.zoo.suite[teacher.task], "test")',
        BLIND,
    ),
    _leak(
        "multi-task LoRA told of tasks in unseen words",
        MULTITASK,
        "wordings = (task.description, *task.paraphrases)",
        "wordings = (*task.unseen_paraphrases, task.description, *task.paraphrases)",
        "test_the_instructed_multitask_lora_learns_from_train_examples_of_the_pool_in_seen_words",
    ),
    _leak(
        "shuffled condition that is not shuffled",
        METHODS,
        "[replace(others[q.split][q.task.name], wording=q.wording) for q in questions]",
        "list(questions)",
        "test_the_shuffled_condition_asks_for_other_tasks",
    ),
    _leak(
        "unseen wordings asked in seen words",
        SETTING,
        "if parse_split(self.split)[0] in IN_UNSEEN_WORDS:",
        "if False:",
        "test_unseen_wordings_are_asked_in_words_no_training_used",
    ),
    _leak(
        "weights of a composition searched on test examples",
        "evaluation/composition_eval.py",
        'self.setting.framing.of_task(task, "train")',
        'self.setting.framing.of_task(task, "test")',
        "test_composition_searches_weights_on_train_examples",
    ),
    # Caches and statistics
    _leak(
        "kept scores of another zoo",
        "evaluation/task_eval.py",
        "[setting.teachers[q.task.name].hash for q in questions]]",
        "len(questions)]",
        "test_kept_scores_of_another_zoo_are_not_used",
    ),
    _leak(
        "kept scores of another pool",
        "evaluation/task_eval.py",
        "pool = [t.hash for t in setting.pool] if chosen.uses_pool else []",
        "pool = []",
        "test_kept_scores_of_another_pool_are_not_used",
    ),
    Mutant(
        "tests that take tasks for independent",
        "evaluation/task_eval.py",
        "compare(exact[reference], exact[other], clusters=clusters)",
        "compare(exact[reference], exact[other])",
        "test_task_eval.py::test_intervals_and_tests_are_clustered_by_the_tasks_attributes",
    ),
    Mutant(
        "the smallest p-value of several attributes",
        "evaluation/statistics.py",
        "p_value = max(tested, default=None)",
        "p_value = min(tested, default=None)",
        "test_statistics.py::test_of_several_attributes_the_largest_p_value_counts_and_those_with_few_levels_are_held_fixed",
    ),
    Mutant(
        "p-values that are not adjusted",
        "evaluation/statistics.py",
        'row["p_holm"] = adjusted',
        'row["p_holm"] = row["p_value"]',
        "test_statistics.py::test_holm_counts_only_what_has_a_p_value",
    ),
    # What a user has: names, finished work, files, tables, statuses
    Mutant(
        "a task whose name is a path",
        "names.py",
        "wrong = _WRONG.search(name)",
        "wrong = None",
        "test_names.py::test_a_name_that_is_no_folder_is_refused",
    ),
    Mutant(
        "runs that share a folder by case",
        "names.py",
        "if other != name:",
        "if False:",
        "test_names.py::test_twins_by_case_and_by_unicode_are_refused",
    ),
    Mutant(
        "a finished run that is trained over",
        "training/standing.py",
        'if standing.finished and not (begin == "go_on" and standing.whole):',
        "if False:",
        "test_standing.py::test_a_finished_run_is_touched_with_overwrite_alone",
    ),
    Mutant(
        "nothing to resume from, and trained from the start",
        "training/standing.py",
        "if not standing.whole and not standing.damaged:",
        "if False:",
        "test_standing.py::test_nothing_to_resume",
    ),
    Mutant(
        "a swapped teacher that is trained on",
        "zoo/folder.py",
        "if found != recorded[path].hash:",
        "if False:",
        "test_zoo_folder.py::test_a_teacher_that_is_not_as_it_was_trained_is_named",
    ),
    Mutant(
        "a flag that the zoo overrules unsaid",
        "workspace.py",
        "if not same:",
        "if False:",
        "test_zoo_folder.py::test_train_refuses_what_the_zoo_decides_otherwise",
    ),
    Mutant(
        "cells that are read as markup",
        "cli/output.py",
        "_plain(_cell(row.get(column))) for",
        "_cell(row.get(column)) for",
        "test_cli_output.py::test_answers_are_shown_as_they_are",
    ),
    Mutant(
        "one bad adapter that stops the folder",
        "lora/bulk.py",
        "            failures[str(paths[index])] = str(error)\n            continue",
        "            raise",
        "test_bulk.py::test_bad_ones_are_named_and_the_rest_is_read",
    ),
    Mutant(
        "values of the wrong kind that are taken as they are",
        "checking.py",
        "return _adapter(kind).validate_python(values)",
        "return kind(**values)",
        "test_cli.py::test_manifest_of_another_shape_is_bad_input",
    ),
    Mutant(
        "bad input with the status of a failure",
        "cli/__init__.py",
        "return _fail(error, BAD_INPUT, debug)",
        "return _fail(error, FAILURE, debug)",
        "test_cli.py::test_bad_input_is_one_sentence_and_status_2",
    ),
    Mutant(
        "a rate below zero",
        "progress.py",
        "if self.seen and done < self.seen[-1][1]:",
        "if False:",
        "test_progress.py::test_no_rate_is_negative_where_counting_begins_anew",
    ),
    Mutant(
        "minus zero per cent",
        "percent.py",
        'return text.lstrip("+-") if not text.strip("+-0.%") else text',
        "return text",
        "test_percent.py::test_percent",
    ),
    Mutant(
        "a best way that plain averaging beats",
        "studies/composition.py",
        'if best["exact_match"] > average["exact_match"]:',
        "if True:",
        "test_composition_eval.py::test_the_best_way_is_the_best",
    ),
    # Artifacts and repeated runs
    Mutant(
        "an archive's bytes that nobody checks",
        "tracking/archive.py",
        "if found.hexdigest() != digest:",
        "if False:",
        "test_archive.py::test_what_is_hostile_is_refused_and_nothing_written",
    ),
    Mutant(
        "links in an archive",
        "tracking/archive.py",
        "if kind not in (0, stat.S_IFREG):",
        "if False:",
        "test_archive.py::test_what_is_hostile_is_refused_and_nothing_written",
    ),
    Mutant(
        "a run recorded as made from another zoo's teachers",
        "provenance.py",
        "if zoo.content_hash != record.inputs.zoo:",
        "if False:",
        "test_provenance.py::test_only_what_the_run_was_made_from_is_its_input",
    ),
    Mutant(
        "deltas recorded as another zoo's",
        "provenance.py",
        "    if missing:",
        "    if False:",
        "test_provenance.py::test_deltas_of_another_zoo_are_not_kept_as_its_own",
    ),
    Mutant(
        "a killed run that goes on for ever",
        "tracking/record.py",
        "return process.lives",
        "return True",
        "test_run_record.py::test_a_killed_run_is_found_and_marked_when_it_is_looked_at",
    ),
    Mutant(
        "tensors of repeated runs that nobody compares",
        "tracking/comparison.py",
        "if one.get(path) != two.get(path):",
        "if False:",
        "test_reproduce.py::test_what_differs_is_named_with_its_place",
    ),
    Mutant(
        "runs of other machines taken for the same",
        "tracking/comparison.py",
        "for found in environment_differences(reference.environment, other.environment)]",
        "for found in []]",
        "test_reproduce.py::test_another_environment_is_incomparable_and_says_in_what",
    ),
    Mutant(
        "a flipped bit in a checkpoint that is gone on from",
        "training/checkpoints.py",
        "hash_file(folder / name) == digest for name",
        "(folder / name).is_file() for name",
        "test_controls.py::test_a_checkpoint_with_one_flipped_bit_is_refused",
    ),
    Mutant(
        "a checkpoint without a part that is gone on from",
        "training/checkpoints.py",
        "return hashes.keys() >= {WEIGHTS_FILE, CONFIG_FILE, OPTIMIZER_FILE, STATE_FILE} and all(",
        "return True or all(",
        "test_controls.py::test_a_checkpoint_that_lacks_a_part_is_refused",
    ),
    Mutant(
        "random states that are not compared",
        "studies/lora.py",
        "tensor_hashes(folder, [folder])",
        'tensor_hashes(folder, [folder / "adapter"])',
        "test_lora_study.py::test_one_flipped_bit_is_named_with_its_file",
    ),
    Mutant(
        "versions of libraries that nobody compares",
        "tracking/validation.py",
        '"cpu_capability", "threads", "packages", "switches")',
        '"cpu_capability", "threads", "switches")',
        "test_lora_study.py::test_another_version_of_a_library_is_named",
    ),
    Mutant(
        "thread counts that nobody compares",
        "tracking/validation.py",
        '"cpu_capability", "threads", "packages", "switches")',
        '"cpu_capability", "packages", "switches")',
        "test_reproduce.py::test_another_environment_is_incomparable_and_says_in_what",
    ),
    Mutant(
        "instructions that nobody compares",
        "tracking/validation.py",
        '"cpu_model", "cpu_capability",',
        '"cpu_model",',
        "test_reproduce.py::test_another_environment_is_incomparable_and_says_in_what",
    ),
    Mutant(
        "a study that trains with one seed whatever is asked for",
        "studies/lora.py",
        "[Lesson(train, test, study.seed, task.name)]",
        "[Lesson(train, test, 42, task.name)]",
        "test_lora_study.py::test_the_same_seed_gives_the_same_and_another_does_not",
    ),
    Mutant(
        "points after the work that are those of before",
        "tracking/validation.py",
        "set_seed(seed, deterministic=False)",
        "set_seed(seed)",
        "test_validation.py::test_a_look_leaves_the_generators_where_they_were_and_names_what_the_work_broke",
    ),
    Mutant(
        "a look that moves the random numbers of the work",
        "tracking/validation.py",
        "torch.set_rng_state(states[2])",
        "pass",
        "test_validation.py::test_a_look_leaves_the_generators_where_they_were_and_names_what_the_work_broke",
    ),
    # The study
    Mutant(
        "validation examples that are test examples",
        "study/parts.py",
        "return Parts(tuple(rest[: sizes.train_examples]), tuple(held_back), tuple(tested))",
        "return Parts(tuple(rest[: sizes.train_examples]), tuple(test), tuple(tested))",
        "test_study_parts.py::test_validation_comes_from_the_train_split_alone",
    ),
    Mutant(
        "articles that train and validate",
        "study/parts.py",
        " if group(item) not in known]",
        "]",
        "test_study_parts.py::test_groups_are_on_one_side_and_examples_are_still_drawn_from_all_of_them",
    ),
    Mutant(
        "hyperparameters chosen by test examples",
        "study/training.py",
        'self.task.score(kwargs["model"], "validation")',
        'self.task.score(kwargs["model"], "test")',
        "test_study_search.py::test_nothing_is_chosen_by_test_examples",
    ),
    Mutant(
        "an optimizer without float32 copies",
        "study/optimizer.py",
        "p if p.dtype == torch.float32 else p.detach().float().clone()",
        "p",
        "test_study_optimizer.py::test_small_steps_add_up_in_bfloat16",
    ),
    Mutant(
        "states pooled over padding",
        "study/states.py",
        "(states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)",
        "states.mean(1)",
        "test_study_states.py::test_states_are_those_of_each_text_alone",
    ),
    Mutant(
        "drift measured from a model that trained already",
        "study/states.py",
        '        self.probes.remember(kwargs["model"])\n        self._record(0, kwargs["model"])\n',
        '        self.probes.remember(kwargs["model"])\n',
        "test_study_states.py::test_the_recorder_writes_the_start_every_so_many_steps_and_the_end",
    ),
    Mutant(
        "states that an attempt which was killed left",
        "study/runs.py",
        "    _forget(folder)\n",
        "",
        "test_study_runs.py::test_finished_runs_stay_and_killed_ones_come_to_the_same",
    ),
    Mutant(
        "a search that counts trials of processes that are gone",
        "study/search.py",
        "if holder is None or (holder.is_here and not holder.lives):",
        "if holder is None:",
        "test_study_search.py::test_trials_of_processes_that_are_gone_are_made_again_and_those_of_others_are_not",
    ),
    Mutant(
        "a search that takes the first of equal trials",
        "study/search.py",
        "key=lambda trial: (trial.user_attrs.get(LOSS) or 0.0, trial.number)",
        "key=lambda trial: trial.number",
        "test_study_search.py::test_of_equal_trials_the_one_with_the_lowest_loss_is_best",
    ),
    Mutant(
        "processes that divide their work each by its own memory",
        "functional_lora/sharding.py",
        "    functional.memory.agree = partial(_least, device=device)\n",
        "",
        "test_sharding.py::test_processes_divide_their_work_alike",
    ),
    Mutant(
        "a journal with a torn line",
        "study/search.py",
        "        _drop_torn_line(path)\n",
        "        pass\n",
        "test_study_search.py::test_a_line_that_a_kill_tore_is_dropped",
    ),
    Mutant(
        "classes that stay where they are when dealt out",
        "study/tasks/classification.py",
        "labels = random.Random(seed).sample([example.label for example in train], len(train))",
        "labels = [example.label for example in train]",
        "test_study_glue.py::test_labels_are_dealt_out_anew",
    ),
    Mutant(
        "an answer told by its first token",
        "study/tasks/generation.py",
        "((logits.argmax(-1) == targets) | ~predicts).all(1)",
        "((logits.argmax(-1) == targets) & predicts).any(1)",
        "test_study_generation.py::test_exact_match_is_what_greedy_decoding_says",
    ),
    Mutant(
        "embeddings that count as drift",
        "study/drift.py",
        "for layer in range(1, n_layers + 1) if layer not in left_out",
        "for layer in range(n_layers + 1) if layer not in left_out",
        "test_drift.py::test_a_run_drifts_from_nothing_to_what_its_last_states_say",
    ),
    Mutant(
        "CKA of states that were not centered",
        "study/cka.py",
        "centered = states - states.mean(1, keepdim=True)",
        "centered = states",
        "test_cka.py::test_nearly_constant_states_keep_their_digits",
    ),
    Mutant(
        "a p-value from three seeds",
        "study/statistics.py",
        'enough = smallest_p(n, "greater") <= alpha',
        "enough = True",
        "test_study_statistics.py::test_seven_seeds_can_and_three_cannot_decide",
    ),
    Mutant(
        "a verdict on a task that nobody learned",
        "study/claims.py",
        "    if p is not None and p <= alpha:\n",
        "    if True:\n",
        "test_hypotheses.py::test_h1_says_nothing_of_tasks_that_full_fine_tuning_did_not_learn",
    ),
    Mutant(
        "one process that stops the runs of another",
        "study/runs.py",
        "            except BusyError as error:\n                busy = error\n",
        "            except BusyError:\n                raise\n",
        "test_study_runs.py::test_a_run_that_another_process_works_at_is_left_to_it_and_the_others_are_finished",
    ),
    Mutant(
        "a verdict by p-values that were not adjusted for each other",
        "study/hypotheses.py",
        "_verdict(by_holm[level], by_opposite[level], alpha)",
        "_verdict(of_pairs[level].p_value, by_opposite[level], alpha)",
        "test_hypotheses.py::test_a_claim_that_is_clear_by_itself_alone_is_not_supported",
    ),
    Mutant(
        "scores of different examples that are paired",
        "study/claims.py",
        "        if one.example_ids != results[0].example_ids:",
        "        if False:",
        "test_hypotheses.py::test_runs_scored_on_other_examples_are_refused",
    ),
    Mutant(
        "a backend that is timed although a token differs",
        "study/parity.py",
        "        if bool((found != expected).any()):",
        "        if False:",
        "test_deployment.py::test_a_backend_that_differs_is_refused_with_the_first_token",
    ),
    Mutant(
        "answers handed out in the order of adapters",
        "study/serving.py",
        "torch.empty_like(new).index_copy_(0, torch.tensor(order, device=new.device), new)",
        "new",
        "test_deployment.py::test_rows_keep_their_adapters_in_any_order",
    ),
    # Serving, and the cache that grows
    Mutant(
        "a request without the token that is answered",
        "serve/app.py",
        "if not hmac.compare_digest(given, self.token.encode()):",
        "if given and not hmac.compare_digest(given, self.token.encode()):",
        "test_serve.py::test_with_a_token_only_who_has_it_is_answered",
    ),
    Mutant(
        "others let in without a token",
        "serve/server.py",
        "if host not in LOOPBACK and not token:",
        "if False:",
        "test_serve.py::test_others_are_not_let_in_without_a_token",
    ),
    Mutant(
        "a body of any size that is read",
        "serve/app.py",
        "if len(body) > self.limits.body_bytes:",
        "if False:",
        "test_serve.py::test_what_is_refused",
    ),
    Mutant(
        "an answer from another request's adapter",
        "serve/engine.py",
        "known[job.sentence] for job in jobs]",
        "next(iter(known.values())) for job in jobs]",
        "test_serve.py::test_a_crowd_gets_what_each_would_get_alone",
    ),
    Mutant(
        "a line that a kill left unfinished before the next one",
        "delta/entries.py",
        "            file.truncate(self._end)  # what a process was writing when it was killed\n",
        "",
        "test_entries.py::test_a_line_that_a_kill_left_unfinished_is_not_read_and_goes",
    ),
    Mutant(
        "slots that read what the regression knows by heart",
        "models/attribute_generator.py",
        "        if not self.training:\n            mean",
        "        if True:\n            mean",
        "test_attribute_generator.py::test_slots_learn_alone_and_add_to_the_regression",
    ),
    # Other people's harness
    Mutant(
        "a teacher that is scored without its adapter",
        "evaluation/lm_eval.py",
        "            yield adapted\n",
        "            with adapted.disable_adapter():\n                yield adapted\n",
        "test_lm_eval.py::test_a_teachers_exact_match_is_the_one_of_llgbm_evaluate",
    ),
    Mutant(
        "the base scored instead of what was asked for",
        "evaluation/lm_eval.py",
        "factors = candidate.make() if candidate.make else None",
        "factors = None",
        "test_lm_eval.py::test_a_teachers_exact_match_is_the_one_of_llgbm_evaluate",
    ),
    Mutant(
        "an adapter that stays in the base",
        "evaluation/lm_eval.py",
        "            adapted.unload()",
        "            pass",
        "test_lm_eval.py::test_an_adapter_is_put_in_alone_and_taken_out_again",
    ),
    Mutant(
        "a task's code that runs unasked",
        "evaluation/lm_tasks.py",
        "    if not confirmed:\n        found.refuse_code()",
        "    if False:\n        found.refuse_code()",
        "test_lm_eval.py::test_code_that_a_task_names_runs_when_that_is_confirmed_alone",
    ),
    Mutant(
        "templates rendered outside the sandbox",
        "evaluation/lm_tasks.py",
        "    if not confirmed:\n        utils.env",
        "    if False:\n        utils.env",
        "test_lm_eval.py::test_a_task_that_cannot_be_asked_is_named",
    ),
    # Work on a cluster
    Mutant(
        "a finished item done again",
        "fanout/ray_crew.py",
        "member.waits_for, task, member.task = None, member.task, None",
        "member.waits_for, task, member.task = None, member.task, None\n"
        "        if task and task.deaths:\n            task.deaths = 0\n            queue.append(task)",
        f"{FANOUT}::test_whoever_dies_every_item_is_finished_once_under_its_own_name",
    ),
    Mutant(
        "a lost worker's item forgotten",
        "fanout/ray_crew.py",
        "queue.appendleft(task)",
        "queue.extend(())",
        f"{FANOUT}::test_whoever_dies_every_item_is_finished_once_under_its_own_name",
    ),
    Mutant(
        "a lost worker's item at the end",
        "fanout/ray_crew.py",
        "queue.appendleft(task)",
        "queue.append(task)",
        f"{FANOUT}::test_a_lost_item_is_the_next_to_be_done",
    ),
    Mutant(
        "results under the names of others",
        "fanout/ray_crew.py",
        "return task.name, outcome.unwrapped(task.name)",
        "return (queue[0] if queue else task).name, outcome.unwrapped(task.name)",
        f"{FANOUT}::test_whoever_dies_every_item_is_finished_once_under_its_own_name",
    ),
    Mutant(
        "an item that kills for ever",
        "fanout/ray_crew.py",
        "if deaths >= MOST_DEATHS:",
        "if deaths > MOST_DEATHS:",
        f"{FANOUT}::test_an_item_that_kills_its_workers_ends_the_work_by_name",
    ),
    Mutant(
        "a refusal taken for an answer",
        "fanout/hand.py",
        "raise InputError(self.refusal)",
        "return None",
        f"{FANOUT}::test_what_a_worker_refuses_is_refused_once_and_ends_the_work",
    ),
    Mutant(
        "workers with other files",
        "fanout/ray_crew.py",
        "if hello.identity != self.identity:",
        "if not hello.identity:",
        f"{FANOUT}::test_workers_that_read_other_files_are_refused",
    ),
    Mutant(
        "nothing read while there is no room",
        "fanout/ray_crew.py",
        "free = max(1, most",
        "free = max(0, most",
        f"{FANOUT}::test_a_cluster_that_lost_every_node_is_waited_for",
    ),
    Mutant(
        "a folder that is looked for on the hub",
        "hub.py",
        "return str(name).startswith(SCHEME)",
        "return not Path(name).exists()",
        "test_hub.py::test_a_folder_is_never_looked_for_on_the_hub",
    ),
    Mutant(
        "a card with another model's scores",
        "evaluation/published.py",
        'for row in document["models"] if row["adapter"] == adapter)',
        'for row in document["models"])',
        "test_hub.py::test_a_pushed_adapter_has_what_was_asked_for_and_its_scores",
    ),
    Mutant(
        "one adapter of another base that stops a zoo",
        "lora/bulk.py",
        "    read = _of_one_base(paths, read, failures)\n",
        "",
        "test_bulk.py::test_adapters_of_another_base_are_named_and_the_rest_is_read",
    ),
    Mutant(
        "of many faulty teachers only the first named",
        "zoo/folder.py",
        "raise InputError(faults[first] + also)",
        "raise InputError(faults[first])",
        "test_zoo_folder.py::test_several_teachers_that_are_not_as_they_were_are_one_sentence",
    ),
    # Plans
    Mutant(
        "work of views counted as work",
        "planning/work.py",
        'func.namespace == "aten" and not func.is_view and',
        'func.namespace == "aten" and',
        "test_planning.py::test_products_are_counted_by_their_shapes",
    ),
    Mutant(
        "a plan that no device is too small for",
        "planning/plan.py",
        "if stage.least_bytes > SHARE * self.devices.memory_bytes]",
        "if False]",
        "test_cli_plan.py::test_what_cannot_fit_ends_with_status_2",
    ),
    Mutant(
        "costs below zero",
        "planning/costs.py",
        "    if min(costs.units()) < 0:",
        "    if False:",
        "test_planning.py::test_costs_are_kept_and_checked",
    ),
)
