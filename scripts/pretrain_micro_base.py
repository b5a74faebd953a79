"""Pretrain MicroZoo's base anew: `python scripts/pretrain_micro_base.py --output_dir my_base` (half an hour on 2 cores)."""

from jsonargparse import CLI

from llgbm.zoo.micro.pretraining import PretrainConfig, pretrain


def main(output_dir: str, config: PretrainConfig | None = None) -> None:
    """Write the base, its tokenizer, its configuration and its log.

    Args:
        output_dir: Where the Hugging Face directory goes.
        config: Every choice; the defaults made the shipped base.
    """
    pretrain(config or PretrainConfig(), output_dir)


if __name__ == "__main__":
    CLI(main, as_positional=False)
