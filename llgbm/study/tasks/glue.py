"""Three tasks of GLUE: where their files and columns are, what their labels mean, and how a decoder is asked."""

from dataclasses import dataclass
from pathlib import Path

from llgbm.study.tables import Row, Table, find_split, read_hub, read_table

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class Labeled:
    """One text or pair of texts with its class."""

    id: str
    texts: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class GlueTask:
    """A task of GLUE; names of columns and labels are those of GLUE's files, then the hub's."""

    folder: str
    """Of its files; on the hub in lower case, without the hyphen."""
    texts: tuple[tuple[str, ...], ...]
    label: tuple[str, ...]
    labels: dict[str, int]
    """How a class is written -> its number."""
    frame: tuple[str, ...]
    """What a decoder reads before each text, and after the last."""
    with_f1: bool = False
    """Whether F1 of class 1 is reported too."""

    @property
    def n_labels(self) -> int:
        return len(set(self.labels.values()))

    def read(self, data: str | None) -> tuple[list[Labeled], list[Labeled]]:
        """Train and test examples; the test examples are the public dev split, as GLUE keeps the labels of its test split.

        Args:
            data: Folder with a folder of the task; None takes the hub.

        Raises:
            InputError: A file or column is missing, or no row can be used.
        """
        if data is None:
            subset = self.folder.lower().replace("-", "")
            return self._labeled(read_hub(HUB, subset, "train")), self._labeled(read_hub(HUB, subset, "validation"))
        folder = Path(data) / self.folder
        tables = [read_table(find_split(folder, "train")), read_table(find_split(folder, "dev", "validation"))]
        return self._labeled(tables[0]), self._labeled(tables[1])

    def _labeled(self, table: Table) -> list[Labeled]:
        columns, label = [table.column(*names) for names in self.texts], table.column(*self.label)

        def make(where: str, row: Row) -> Labeled:
            texts, said = [row.get(column) for column in columns], row.get(label)
            empty = next((c for c, text in zip(columns, texts, strict=True) if not isinstance(text, str) or not text.strip()), None)
            if empty is not None:
                raise ValueError(f"its {empty} is {row.get(empty)!r:.60}, expected text")
            if str(said) not in self.labels:
                raise ValueError(f"its {label} is {said!r:.60}, expected one of {', '.join(self.labels)}")
            return Labeled(f"{Path(table.source).name} {where}", tuple(map(str, texts)), self.labels[str(said)])

        return table.read(make)


GLUE: dict[str, GlueTask] = {
    "mrpc": GlueTask(
        folder="MRPC",
        texts=(("#1 String", "sentence1"), ("#2 String", "sentence2")),
        label=("Quality", "label"),
        labels={"0": 0, "1": 1, "not_equivalent": 0, "equivalent": 1},
        frame=("Sentence 1:", "\nSentence 2:", "\nDo both say the same?"),
        with_f1=True,
    ),
    "sst2": GlueTask(
        folder="SST-2",
        texts=(("sentence",),),
        label=("label",),
        labels={"0": 0, "1": 1, "negative": 0, "positive": 1},
        frame=("Review:", "\nIs it positive?"),
    ),
    "rte": GlueTask(
        folder="RTE",
        texts=(("sentence1",), ("sentence2",)),
        label=("label",),
        labels={"entailment": 0, "not_entailment": 1, "0": 0, "1": 1},
        frame=("Text:", "\nClaim:", "\nDoes the claim follow from the text?"),
    ),
}
"""Name -> task. Source: Wang et al. 2019, arXiv:1804.07461."""
