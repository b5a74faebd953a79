"""What a worker of a study holds: the tasks on their base. It writes in the study's folder; results are kept by whoever asks."""

from dataclasses import dataclass

from llgbm.files import hash_json, hash_tensors
from llgbm.study.config import StudyConfig
from llgbm.study.folder import Study
from llgbm.study.tasks.named import load_tasks


@dataclass(frozen=True)
class Surveyed:
    """What is known of a task before it is trained."""

    train_examples: int
    metric: str


class StudyWorker:
    """The base of workers that train.

    Args:
        config: Of the study.
        folder: Of the study, which is also this machine's.

    Raises:
        InputError: A task or the base cannot be read.
    """

    def __init__(self, config: StudyConfig, folder: str) -> None:
        self.study, self.tasks = Study(config, folder), load_tasks(config)

    @property
    def identity(self) -> str:
        """Hash of the base's weights and the tasks' examples."""
        weights = next(iter(self.tasks.values())).backbone.model.state_dict()
        examples = {name: [task.example_ids(part) for part in ("train", "validation", "test")] for name, task in self.tasks.items()}
        return hash_json([hash_tensors(weights), examples])

    def survey(self) -> dict[str, Surveyed]:
        """Of every task."""
        return {name: Surveyed(len(task.parts.train), task.metric) for name, task in self.tasks.items()}
