"""Pretrain MicroZoo's base anew: `python scripts/pretrain_micro_base.py --output_dir my_base` (about half an hour on 2 cores)."""

from jsonargparse import CLI

from llgbm.zoo.micro.pretraining import PretrainConfig, pretrain

if __name__ == "__main__":
    import sys

    def main(output_dir: str, config: PretrainConfig = PretrainConfig()) -> None:
        pretrain(config, output_dir)

    sys.exit(CLI(main, as_positional=False))
