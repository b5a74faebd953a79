"""MicroZoo's tokenizer: template words are whole tokens, everything else is spelled character by character."""

import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
TEMPLATE_TOKENS = ("### Instruction:", "### Response:", "### Input:", "\n\n")
CONTEXT_LENGTH = 512


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over template words and single printable ASCII characters; no token is ever merged."""
    symbols = [PAD, EOS, UNK, *TEMPLATE_TOKENS, "\n", *(c for c in string.printable if c.isprintable())]
    tokenizer = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token=UNK))
    pattern = "|".join([*TEMPLATE_TOKENS, r"[\s\S]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
