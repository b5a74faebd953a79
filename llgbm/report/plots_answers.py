"""What a generator does, in one picture: the sentence it read, the adapter it wrote, and what base and adapted model answer."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llgbm.errors import InputError
from llgbm.evaluation.answers import ANSWERS_FILE, read_answers
from llgbm.files import write_text

WIDTH, MARGIN, LINE = 760, 24, 24
COLUMNS = (("input", 24, "plain"), ("base", 200, "wrong"), ("with the adapter", 376, "right"), ("expected", 560, "plain"))
"""Heading, left edge and look of each column of answers."""
SENTENCE_CHARACTERS, CELL_CHARACTERS = 78, 18

NEVER_MET = dict.fromkeys(("unseen_combination", "unseen_value", "mixture"), ", for a task the generator never trained on")
"""What is said of a split's tasks."""

STYLE = """
svg { font: 15px system-ui, sans-serif; }
.page { fill: #fcfcfb; } .box { fill: #f0efec; stroke: #c3c2b7; } .ink, .plain { fill: #0b0b0b; } .muted { fill: #52514e; font-size: 13px; }
.line { stroke: #c3c2b7; } .arrow { stroke: #2a78d6; stroke-width: 2; fill: none; } .head { fill: #2a78d6; }
.plain, .wrong, .right { font-family: ui-monospace, monospace; } .wrong { fill: #b3402b; } .right { fill: #1c7a3f; font-weight: 600; }
@media (prefers-color-scheme: dark) {
.page { fill: #1a1a19; } .box { fill: #2c2c2a; stroke: #52514e; } .ink, .plain { fill: #ffffff; } .muted { fill: #c3c2b7; }
.line { stroke: #52514e; } .arrow { stroke: #6da7ec; } .head { fill: #6da7ec; } .wrong { fill: #f0937f; } .right { fill: #6fce93; } }
"""


def draw_answers(run: str | Path, folder: str | Path) -> list[Path]:
    """The first task of a run's example answers; the path of `answers.svg`.

    Raises:
        InputError: The run has no example answers, or its generator read prompts alone.
    """
    source = Path(run) / ANSWERS_FILE
    if not source.is_file():
        raise InputError(f"{run}: no {ANSWERS_FILE} there; write it with 'llgbm evaluate --run {run} --example_answers 12'")
    task = next((task for task in read_answers(source)["tasks"] if task["description"]), None)
    if task is None:
        raise InputError(f"{source}: the generator read prompts, not a sentence; draw a run with --generator.condition description")
    path = Path(folder) / "answers.svg"
    write_text(path, _picture(task))
    return [path]


def _picture(task: dict[str, Any]) -> str:
    sentence = textwrap.wrap(f"“{task['description']}”", SENTENCE_CHARACTERS)
    box = LINE * len(sentence) + 18
    below = 50 + box
    parts = [_text("muted", MARGIN, 26, f"One sentence{NEVER_MET.get(task['split'], '')}")]
    parts.append(Markup('<rect class="box" x="{}" y="36" width="{}" height="{}" rx="8"/>').format(MARGIN, WIDTH - 2 * MARGIN, box))
    parts += [_text("ink", MARGIN + 14, 62 + LINE * i, line) for i, line in enumerate(sentence)]
    parts.append(Markup('<path class="arrow" d="M{0} {1} v34"/>').format(MARGIN + 40, below - 8))
    parts.append(Markup('<path class="head" d="M{} {} h14 l-7 10 z"/>').format(MARGIN + 33, below + 24))
    parts.append(_text("muted", MARGIN + 62, below + 18, "the generator, one forward pass: a LoRA adapter that plain PEFT loads"))
    top = below + 64
    parts += [_text("muted", x, top, heading) for heading, x, _ in COLUMNS]
    parts.append(Markup('<line class="line" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(MARGIN, WIDTH - MARGIN, top + 10))
    for i, row in enumerate(task["examples"]):
        cells = (row["input"], row["answers"]["base"], row["answers"]["generated"], row["expected"])
        parts += _row(cells, row["expected"], top + 36 + LINE * i)
    height = top + 36 + LINE * len(task["examples"])
    described = f"Asked with one sentence, the generator writes an adapter; of {len(task['examples'])} inputs the adapted model gets "
    described += f"{sum(row['answers']['generated'] == row['expected'] for row in task['examples'])} right"
    head = Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">')
    page = Markup('<rect class="page" width="100%" height="100%"/>')
    return f"{head.format(WIDTH, height, described)}<style>{STYLE}</style>{page}{Markup('').join(parts)}</svg>\n"


def _row(cells: Sequence[str], expected: str, y: float) -> list[Markup]:
    """Answers look right where they are, whoever gave them."""
    kinds = [kind for _, _, kind in COLUMNS]
    looks = [kind if kind == "plain" else "right" if cell == expected else "wrong" for cell, kind in zip(cells, kinds, strict=True)]
    return [_text(look, x, y, _cut(cell)) for cell, look, (_, x, _) in zip(cells, looks, COLUMNS, strict=True)]


def _cut(text: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= CELL_CHARACTERS else shown[: CELL_CHARACTERS - 1] + "…"


def _text(look: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" xml:space="preserve">{}</text>').format(look, x, y, text)
