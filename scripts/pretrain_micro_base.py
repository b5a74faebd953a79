"""Pretrain MicroZoo's base anew: `python scripts/pretrain_micro_base.py --output_dir my_base` (half an hour on 2 cores).

`--hold_out 25` (or 50) makes the base of MicroZoo-Wild, which has never seen those pairs of operation and style.
"""

from dataclasses import replace

from jsonargparse import CLI

from llgbm.zoo.micro.pretraining import PretrainConfig, pretrain


def main(output_dir: str, config: PretrainConfig | None = None, hold_out: int = 0, device: str = "cpu") -> None:
    """Write the base, its tokenizer, its configuration and its log; goes on where the same command was interrupted.

    Args:
        output_dir: Where the Hugging Face directory goes.
        config: Every choice; the defaults made the shipped base.
        hold_out: Percent of the pairs of operation and style that are never shown: 0, 25 or 50.
        device: Where it is trained: cpu, cuda.
    """
    pretrain(replace(config or PretrainConfig(), hold_out=hold_out), output_dir, device)


if __name__ == "__main__":
    CLI(main, as_positional=False)
