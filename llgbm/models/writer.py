"""What every network that writes adapters shares: its spec, and how it is asked.

Letters: K tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin

from llgbm.files import write_text
from llgbm.hub import COMMIT_MESSAGE, committing
from llgbm.lora.factors import LoRAFactors
from llgbm.models.cards import CARD_FILE, PublishedScore, completed
from llgbm.models.reader import ConditionReader
from llgbm.zoo.base import Base, BaseIdentity


@dataclass
class GeneratorSpec:
    """Everything `from_pretrained` needs to rebuild a generator and `generate` to use it."""

    shapes: dict[str, tuple[int, int]]
    """Module name -> (d_in, d_out)."""
    rank: int
    alpha: float
    """Every emitted module has `scaling = alpha / rank`."""
    embedding_dim: int
    size: str = "s"
    slots: int = 1
    ridge: int = 0
    """Directions of the teachers' B along which a ridge regression from the condition begins; 0: it begins at zero."""
    attributes: dict[str, list[str]] = field(default_factory=dict)
    """Attribute -> its levels, of a generator that reads them."""
    homes: list[int] = field(default_factory=list)
    """For each of these levels, side by side, the number of the only domain it is asked for in, or -1 (see `reading.homes_of`)."""
    known_texts: int = 0
    """Texts of known attributes that such a generator compares a request with."""
    known_words: int = 0
    """Words that such a generator knows the levels of; 0: it aligns none."""
    word_width: int = 0
    """Numbers of a vector that say which word it is."""
    token_widths: list[int] = field(default_factory=list)
    """Last numbers of a vector that say what a token means to one model and the next: slots read these, if there are any, each model's
    apart, and a request is compared by the mean of those before them."""
    readers: int = 1
    """Times that slots read each of them, or all numbers: each misreads other words."""
    slots_share: float = 0.25
    """By how much it multiplies the log-odds that slots say, in the mean of their readers, before they add to what this comparison says;
    less where it knows the words."""
    encoder: str = "hashing"
    encoder_id: str = ""
    """Content of the encoder the generator was trained with."""
    condition: str = "description"
    max_prompts: int = 8
    base: BaseIdentity | None = None
    """For which base it writes; None where that was never said."""
    fan_in_fan_out: bool = False
    trained_on: list[str] = field(default_factory=list)
    """Tasks whose teachers were training targets."""
    validated_on: list[str] = field(default_factory=list)
    """Tasks held back to choose the checkpoint."""
    members: int = 1
    """How many generators write together; more than one in an ensemble."""

    @property
    def text_width(self) -> int:
        """First numbers of a vector whose mean says what a whole text asks for."""
        return self.embedding_dim - sum(self.token_widths)

    def emitted(self) -> int:
        """Numbers in one emitted adapter."""
        return sum(self.rank * (d_in + d_out) for d_in, d_out in self.shapes.values())


class AdapterWriter(ConditionReader, ModelHubMixin):
    """Reads the texts of K tasks, writes one LoRA adapter for each; its forward gives `LoRAFactors`."""

    kind, trained_by, spec_type = "generator", "llgbm train", GeneratorSpec
    spec: GeneratorSpec

    @classmethod
    def make_spec(cls, values: dict[str, Any], source: Path) -> GeneratorSpec:
        """JSON has lists where shapes are pairs."""
        shapes = {name: (int(d_in), int(d_out)) for name, (d_in, d_out) in values["shapes"].items()}
        return super().make_spec({**values, "shapes": shapes}, source)

    def parameters_per_number(self) -> float:
        """Trained parameters for each number of one emitted adapter."""
        return sum(p.numel() for p in self.parameters()) / self.spec.emitted()

    def generate(
        self,
        prompts: Sequence[str] | Sequence[Sequence[str]] | None = None,
        description: str | Sequence[str] | None = None,
        base: Base | None = None,
    ) -> LoRAFactors:
        """Write adapters for one task or many, in one pass.

        Args:
            prompts: Unlabeled prompts of one task, or one such list for each task.
            description: The sentence that describes the task, or one for each task.
            base: The frozen base, for an encoder that reads it.

        Raises:
            InputError: Neither is given, the two disagree on the number of tasks, or a text is empty.
        """
        return self.answer(prompts, description, base)

    def save_pretrained(self, folder: str | Path, *, config: None = None, model_card_kwargs: dict[str, Any] | None = None) -> None:
        """Write `model.safetensors`, then `config.json`; a folder with a config is whole.

        Args:
            folder: Made if needed.
            config: The spec is it.
            model_card_kwargs: Of `generate_model_card`, whose card is written first; without them there is none.
        """
        if model_card_kwargs is not None:
            write_text(Path(folder) / CARD_FILE, str(self.generate_model_card(**model_card_kwargs)))
        super().save_pretrained(folder)

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride] (nothing is published without a licence)
        self, repo_id: str, license: str, scores: Sequence[PublishedScore] = (), private: bool | None = None, **commit: Any
    ) -> str:
        """Write the generator and its card to a model of the hub; the commit's address. InputError as `hub.committing`.

        Args:
            repo_id: `ORG/NAME`.
            license: As the hub abbreviates it: mit, apache-2.0.
            scores: For the card.
            private: Whether only its owners see it; None: as their settings say.
            commit: `branch`, `create_pr`, `commit_message`, `token` and the like, as `ModelHubMixin.push_to_hub` takes them.
        """
        card = {"repo_id": repo_id, "license": license, "scores": scores}
        commit = {"commit_message": COMMIT_MESSAGE, **commit}
        with committing(repo_id):
            return str(super().push_to_hub(repo_id, private=private, model_card_kwargs=card, **commit))

    def generate_model_card(self, repo_id: str, license: str, scores: Sequence[PublishedScore] = ()) -> ModelCard:
        """The card of this generator under a name of the hub's."""
        base_name = None if self.spec.base is None else self.spec.base.name
        return ModelCard(completed(self._card(repo_id), repo_id, base_name, "llgbm", license, scores))

    def _card(self, repo_id: str) -> str:
        spec = self.spec
        base = "not recorded" if spec.base is None else f"`{spec.base.name}` ({spec.base.dtype}, content {spec.base.hash[:16]})"
        return f"""# {repo_id.rpartition("/")[2]}

A generator of LoRA adapters: it reads a sentence, or a few unlabeled prompts, and writes an adapter for its base in one forward pass.

| | |
|---|---|
| base | {base} |
| rank, alpha | {spec.rank}, {spec.alpha:g} |
| text encoder | `{spec.encoder}` |
| trained on | {len(spec.trained_on)} tasks |

    llgbm generate --run hf://{repo_id} --description "What the adapter should do." --output my_adapter
"""
