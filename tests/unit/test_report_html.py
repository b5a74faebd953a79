"""The page shows what was saved, needs nothing but itself, escapes every text and is the same for the same files."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from llgbm.errors import InputError
from llgbm.report.charts import MAX_POINTS, Curve, Estimate, curves_chart, estimates_chart, thin, ticks
from llgbm.report.collect import collect_composition, collect_run, read_curves
from llgbm.report.html import source_hash, write_report
from llgbm.report.table import duration, json_tables, moment, size

HOSTILE = "<script>alert('x')</script> & \"quoted\""
TASKS = ("a", "b", "c", "d")
EXACT = {"base": (0.0, 0.25, 0.0, 0.0), "teacher": (1.0, 1.0, 1.0, 0.75), "generated": (1.0, 0.5, 1.0, 0.75)}
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Every tag with its attributes and the tags around it; the text of each script, style and heading."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), list(self.open)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), list(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open:
            self.texts[tag][-1] += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes, _ in self.tags if tag == name]


INTERVAL = {"low": 0.7, "high": 0.9}


def evaluation(config_hash: str = "abcd1234") -> dict:
    def summary(method):
        mean = sum(EXACT[method]) / 4
        gain = (mean - 0.0625) / 0.875
        return {
            "score": mean,
            "score_stderr": 0.1,
            "nll": 0.5,
            "gain_recovered": gain,
            "n_tasks": 4,
            "n_examples": 16,
            **INTERVAL,
        }

    compared = {"difference": 0.75, "low": 0.5, "high": 0.9, "p_value": 0.0123, "p_holm": 0.0246, "n_units": 4, "test": "sign-flip"}
    compared |= {"unit": "task", "clusters": {"letter": {"levels": 7, "icc": 0.1, "p_value": 0.0123}}}
    return {
        "splits": {"unseen_combination": {method: summary(method) for method in EXACT}},
        "comparisons": [{"split": "unseen_combination", "method": "generated", "other": "base", **compared}],
        "tasks": [
            {"split": "unseen_combination", "task": f"task-{name}", "domain": "letters", "score": {m: EXACT[m][i] for m in EXACT}}
            for i, name in enumerate(TASKS)
        ],
        "metrics": ["exact_match"],
        "base": {"name": "micro", "hash": "ba5e"},
        "config_hash": config_hash,
    }


def answers() -> dict:
    row = {"input": "abc", "expected": "cba", "answers": {"base": HOSTILE, "generated": "cba"}}
    task = {"task": "task-a", "domain": "letters", "split": "unseen_combination", "description": HOSTILE, "prompts": [], "examples": [row]}
    return {"methods": ["base", "generated"], "tasks": [task]}


def make_run(folder: Path, **metadata) -> Path:
    """A run folder with every part, written by hand."""
    (folder / "figures").mkdir(parents=True)
    config = {"seed": 42, "model": {"name": "micro"}, "training": {"total_steps": 30}, "checkpoint_folder": str(folder.parent / "zoo")}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    known = {"experiment_name": folder.name, "state": "COMPLETED", "started": "2026-01-02T03:04:05+00:00", "seconds": 65.2}
    git = {"commit": "0123456789abcdef", "branch": "main", "dirty": True}
    machine = {"python_version": "3.11.7", "platform": "Linux", "packages": {"torch": "2.13.0"}, "threads": 2}
    save(folder / "metadata.json", {**known, "git": git, "environment": machine, "config_hash": "abcd1234", **metadata})
    lines = [{"step": s, "loss": 1 / s, "weight/kl": 1.0, "validation/score": s / 40} for s in (10, 20, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    save(folder / "training.json", {"steps": 30, "best_step": 20, "teacher_score": 0.9})
    save(folder / "eval_main.json", evaluation())
    save(folder / "example_answers.json", answers())
    (folder / "figures" / "delta_map.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    (folder.parent / "zoo").mkdir(exist_ok=True)
    teacher = {"path": "a", "task": "a", "domain": "letters", "split": "seen", "seed": 0, "exact_match": 1.0}
    save(folder.parent / "zoo" / "manifest.json", {"teachers": [teacher]})
    return folder


def save(path: Path, value) -> None:
    path.write_text(json.dumps(value))


def bare_run(folder: Path, **metadata) -> Path:
    folder.mkdir()
    save(folder / "metadata.json", {"state": "RUNNING", **metadata})
    return folder


def page_of(*runs: Path, composition: Path = Path("nowhere")) -> str:
    return write_report(runs, runs[0].parent / "page.html", composition).read_text()


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "first")


def test_every_part_of_a_run_is_on_the_page(run):
    page = page_of(run)
    shown = ("first", "completed", "2026-01-02 03:04 UTC", "1 min 5 s", "0123456789ab on main, with uncommitted changes", "torch 2.13.0")
    shown += ("30, the best was 20", "1 teachers in", "teacher 90.0%", "Constant throughout: weight/kl = 1", "81.2%", "gain 86%", "p 0.025")
    shown += ("0.0123", "+75.0", "task-d", "The adapter the generator writes for the question", "delta_map.svg")
    for text in shown:
        assert text in page, text
    assert "not there; run" in page.split('id="composition"')[1]
    assert page.count("not there; run") == 1


def test_teachers_without_a_score_are_no_failures_and_other_metrics_are_named(run):
    manifest = run.parent / "zoo" / "manifest.json"
    teacher = {"domain": "letters", "split": "seen", "exact_match": 0.25}
    save(manifest, {"teachers": [teacher, {**teacher, "exact_match": None}, {**teacher, "domain": "digits", "exact_match": None}]})
    page = page_of(run)
    assert "25.0%" in page
    assert "12.5%" not in page
    assert "exact match in validation" in page
    save(manifest, {"teachers": [{**teacher, "score": 0.375}]})
    page = page_of(run)
    assert "37.5%" in page
    assert "score, each task by its metric, in validation" in page


def test_intervals_and_clusters_are_those_of_the_evaluation(run):
    page = page_of(run)
    assert "81.2%<small>[70.0, 90.0]" in page
    assert "4 tasks, clustered by letter (7)" in page


def test_files_are_listed_with_their_hashes_and_the_page_is_not_among_them(run):
    write_report([run], composition_dir="nowhere")
    page = (run / "report.html").read_text()
    for path in run.rglob("*"):
        if path.is_file() and path.suffix != ".html":
            assert hashlib.sha256(path.read_bytes()).hexdigest() in page, path
    assert all(artifact.path != "report.html" for artifact in collect_run(run).artifacts)


def test_same_files_give_the_same_bytes(run):
    first = write_report([run], composition_dir="nowhere").read_bytes()
    before = source_hash(run, "nowhere")
    for path in run.rglob("*.json"):
        path.touch()
    assert write_report([run], composition_dir="nowhere").read_bytes() == first
    assert source_hash(run, "nowhere") == before
    save(run / "training.json", {"steps": 31})
    assert source_hash(run, "nowhere") != before
    assert write_report([run], composition_dir="nowhere").read_bytes() != first


def test_the_page_needs_no_network_and_runs_no_script_but_its_own(run):
    page = Page(page_of(run))
    assert not page.open
    assert len(page.all("script")) == 1
    own = base64.b64encode(hashlib.sha256(page.texts["script"][0].encode()).digest()).decode()
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{own}'" in policy
    assert "default-src 'none'" in policy
    for _, attributes, _ in page.tags:
        for name, value in attributes.items():
            assert name not in ("href", "src") or value.startswith(("#", "data:"))
            assert not name.startswith("on")
    assert "@import" not in page.texts["style"][0]
    assert "url(" not in page.texts["style"][0]


def test_every_text_is_escaped(tmp_path):
    run = make_run(tmp_path / "run", experiment_name=HOSTILE, state="FAILED", error=HOSTILE)
    document = evaluation()
    document["tasks"][0]["task"] = HOSTILE
    save(run / "eval_main.json", document)
    composition = tmp_path / "composition"
    composition.mkdir()
    save(composition / "composition.json", {"findings": [HOSTILE], HOSTILE: {HOSTILE: HOSTILE}})
    text = page_of(run, composition=composition)
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(") >= 8
    assert len(Page(text).all("script")) == 1


def test_headings_landmarks_and_names(run):
    page = Page(page_of(run))
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(page.all(landmark)) == 1, landmark
    levels = [int(tag[1]) for tag, _, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    boxes = [attributes for _, attributes, _ in page.tags if attributes.get("class") == "scroll"]
    assert len(boxes) == len(page.all("table")) + len(page.all("img"))
    assert all(box.get("aria-label") and box.get("tabindex") == "0" for box in boxes)
    ids = [attributes["id"] for _, attributes, _ in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)
    assert all("label" in around for tag, _, around in page.tags if tag in ("input", "select"))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(scheme):
    style = files("llgbm.report").joinpath("page", "chart.css").read_text()
    colors = dict(re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{(.*?)\}", style, re.S)[scheme]))
    for ground in ("page", "panel"):
        for ink in ("ink", "muted", "accent", "good", "bad"):
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
        for line in ("s0", "s1", "s2", "s3", "s4", "s5"):
            assert contrast(colors[line], colors[ground]) >= 3, (line, ground)
    assert contrast(colors["warn-ink"], colors["warn-page"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colors."""

    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_an_unfinished_run_says_so_and_names_what_is_missing(tmp_path):
    run = bare_run(tmp_path / "going", config={"training.total_steps": 90})
    (run / "metrics.jsonl").write_text('{"step": 7, "loss": 1.5}\n{"step": 8, "lo')
    page = page_of(run)
    assert "This run has not ended" in page
    assert "Last logged step: 7 of 90." in page
    assert "llgbm train --config" in page
    assert "1 line of going" in page
    for command in ("zoo build", f"evaluate --run {run}", "visualize --type deltas", "compose", "--example_answers 12"):
        assert re.search(rf"not there; run <code>llgbm [^<]*{re.escape(command)}" if command[0] == "-" else f"<code>llgbm {command}", page)


def test_a_failed_run_says_why(tmp_path):
    run = bare_run(tmp_path / "broken", state="FAILED", error="RuntimeError: out of memory")
    assert "This run failed: RuntimeError: out of memory." in page_of(run)


def test_a_run_without_metadata_is_of_unknown_state(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert "nobody knows whether it ended" in page_of(tmp_path)


def test_an_evaluation_of_another_configuration_is_told(run):
    save(run / "eval_main.json", evaluation(config_hash="ffff0000"))
    assert "belongs to configuration ffff0000, the run is abcd1234" in page_of(run)


def test_several_runs_stand_side_by_side(run, tmp_path):
    other = make_run(tmp_path / "second")
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump({**config, "seed": 43}))
    page = page_of(run, other)
    assert page.count('<polyline class="line s0"') == page.count('<polyline class="line s1"') > 0
    differing = page.split('aria-label="Where the configurations differ"')[1].split("</table>")[0]
    assert "42" in differing
    assert "43" in differing
    assert "micro" not in differing
    heads = page.split('aria-label="Exact match on each task"')[1].split("</thead>")[0]
    assert heads.index("first") < heads.index("second")
    assert page.count("81.2%<small>[") == 2
    assert page.count("data:image/svg") == 1


def test_several_evaluations_of_a_run_are_columns_too(run):
    save(run / "eval_again.json", evaluation())
    page = page_of(run)
    assert "first, again" in page
    assert "first, main" in page


def test_composition_of_any_layout_is_shown(run, tmp_path):
    folder = tmp_path / "composition"
    folder.mkdir()
    ways = [{"way": "sum", "both": 0.5, "of": {"a": 0.25}}, {"way": "mean", "both": 0.125, "of": {"a": None}}]
    rows = [{"pair": str(i)} for i in range(99)]
    save(folder / "composition.json", {"findings": ["Sums do both."], "mixtures": {"ways": ways}, "rows": rows, "seeds": [0, 1]})
    page = page_of(run, composition=folder)
    for text in ("Sums do both.", "composition: mixtures: ways", "of.a", "0.125", "0, 1", "The first 60 of 99 rows."):
        assert text in page, text
    assert collect_composition(tmp_path / "nowhere") is None
    assert "another zoo" not in page
    metadata = json.loads((run / "metadata.json").read_text())
    save(run / "metadata.json", {**metadata, "inputs": {"zoo": "e" * 64}})
    save(folder / "composition.json", {"findings": [], "zoo": {"hash": "f" * 64}})
    assert "These results come from another zoo than the runs shown here" in page_of(run, composition=folder)


@pytest.mark.parametrize("document", [None, 3, "text", [], {}, [1, 2], [[{"a": 1}]], {"a": []}, {"a": {"b": {"c": [{"d": {"e": 1}}]}}}])
def test_no_json_document_is_too_odd(document):
    assert all(len(row) == len(table.columns) for table in json_tables(document, "odd") for row in table.rows)


def test_a_step_logged_twice_counts_as_logged_last(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 5}\n{"step": 1, "loss": 4, "note": "x", "flag": true}\n{"step": 2, "loss": 3, "lr": NaN}\n')
    assert read_curves(path).figures == {"loss": [(1, 4.0), (2, 3.0)]}


@pytest.mark.parametrize("line", ["oops", "[1]", '{"loss": 1}', '{"step": "one"}', '{"step": 1} x', "", "\xff"])
def test_a_broken_line_of_metrics_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: not a line of metrics \(expected a JSON object with an integer step\)"):
        read_curves(path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("eval_main.json", [], "not an evaluation"),
        ("eval_main.json", {**evaluation(), "splits": {"seen": 3}}, "not an evaluation, .*splits.seen must be a mapping"),
        (
            "eval_main.json",
            {**evaluation(), "splits": {"seen": {"base": {"score": None, **INTERVAL}}}},
            "score of base or its interval is not a number",
        ),
        ("eval_main.json", {**evaluation(), "tasks": [{"split": "seen"}]}, "not a whole evaluation"),
        ("eval_main.json", {**evaluation(), "comparisons": [{"split": "seen"}]}, "not a whole evaluation"),
        ("example_answers.json", {"tasks": [{"task": "a"}]}, "not example answers"),
        ("metadata.json", [1], "expected a JSON object, found list"),
    ],
)
def test_a_file_that_is_something_else_is_named(run, file, content, message):
    save(run / file, content)
    with pytest.raises(InputError, match=f"{re.escape(file)}: .*{message}|{file}: {message}"):
        collect_run(run)


def test_faults_in_what_is_asked_for(run, tmp_path):
    with pytest.raises(InputError, match=r"nowhere: not a run \(no config.yaml, no metadata.json\); give a folder"):
        write_report([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="runs are none; give at least one, each once"):
        write_report([])
    with pytest.raises(InputError, match="give at least one, each once"):
        write_report([run, run], tmp_path / "page.html")
    with pytest.raises(InputError, match="2 runs in one report; say where it goes with --output FILE"):
        write_report([run, make_run(tmp_path / "second")])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.59, 2.02), (-3, 17), (1e-9, 2e-9), (5, 5), (0, 0), (10, 1500), (-2e6, 1e3)])
def test_ticks_are_even_round_and_enclose_the_values(low, high):
    levels = ticks(low, high)
    assert levels[0] <= low + 1e-12
    assert levels[-1] >= high - 1e-12
    assert 2 <= len(levels) <= 7
    steps = [b - a for a, b in itertools.pairwise(levels)]
    assert max(steps) == pytest.approx(min(steps))


def test_a_long_curve_keeps_its_mean():
    points = [(i, float(i % 7)) for i in range(MAX_POINTS * 4)]
    thinned = thin(points)
    assert len(thinned) == MAX_POINTS
    assert sum(y for _, y in thinned) / len(thinned) == pytest.approx(sum(y for _, y in points) / len(points))
    assert thin(points[:5]) == points[:5]


def test_charts_stay_in_their_panel_and_say_what_they_show():
    lines = curves_chart("loss", [Curve("a & b", [(1, 0.5), (9, 0.25)]), Curve("flat", [(3, 0.3)])], reference=("goal", 0.1))
    assert 'aria-label="loss. a &amp; b from 0.5 to 0.25; flat from 0.3 to 0.3, steps 1 to 9"' in lines
    dots = estimates_chart(
        "exact match", [("base", [Estimate("run", 0.0, None, None), None]), ("teacher", [None, Estimate("two", 1, 0.9, 1)])]
    )
    assert "two: 100% [90%, 100%]" in dots
    for chart in (lines, dots):
        width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', chart).groups())
        found = re.findall(r'\b(x|y|x1|x2|y1|y2|cx|cy)="(-?[\d.]+)"', chart)
        assert all(0 <= float(value) <= (width if "x" in name else height) for name, value in found)


def test_figures_for_people():
    assert [duration(s) for s in (0.4, 59.6, 154.6, 3600, 7265)] == ["0 s", "1 min 0 s", "2 min 35 s", "1 h", "2 h 1 min"]
    assert [size(b) for b in (12, 1500, 7_252_296, 3 * 10**9, 1_614_000_000_000)] == ["12 bytes", "1.5 kB", "7.25 MB", "3 GB", "1.61 TB"]
    assert moment("yesterday") == "yesterday"
