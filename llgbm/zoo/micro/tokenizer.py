"""MicroZoo's tokenizer: template words are whole tokens, everything else is spelled character by character.

It is a byte-level BPE without merges because transformers loads the tokenizer of any Qwen2 model with Qwen2's own
byte-level splitting, whatever `tokenizer.json` says; a splitter of our own would silently be replaced.
"""

import string

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
TEMPLATE_TOKENS = ("### Instruction:", "### Response:", "### Input:", "\n\n")
CONTEXT_LENGTH = 512
PAD_ID, EOS_ID = 0, 1


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer over template words and single printable ASCII characters; no token is ever merged."""
    byte_level = {" ": "Ġ", "\n": "Ċ"}
    symbols = [PAD, EOS, UNK, *TEMPLATE_TOKENS, "\n", *(c for c in string.printable if c.isprintable())]
    vocabulary = {byte_level.get(symbol, symbol): i for i, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in TEMPLATE_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
