"""`llgbm push`: a generator or an adapter to the Hugging Face hub, with a complete card."""

from argparse import Namespace
from pathlib import Path

from llgbm.cli.options import add_json
from llgbm.cli.output import print_json
from llgbm.cli.parser import CommandParser

HELP = "Write a generator or an adapter to the Hugging Face hub."
EXAMPLE = "llgbm push my_adapter my_org/my_adapter --license mit"


def add_arguments(parser: CommandParser) -> None:
    """What, where to, and what its card says."""
    parser.add_argument("folder", metavar="DIR", help="a run, its generator folder, or a PEFT adapter")
    parser.add_argument("repository", metavar="ORG/NAME", help="made if need be, by who is logged in ('hf auth login')")
    parser.add_argument("--license", required=True, metavar="L", help="as the hub abbreviates it: mit, apache-2.0")
    parser.add_argument(
        "--scores", default=None, metavar="FILE", help="eval_<name>.json of the generator, eval_lm_<name>.json of the adapter"
    )
    parser.add_argument("--private", action="store_true", default=None, help="only its owners see it")
    add_json(parser)


def run(args: Namespace) -> int:
    """Push; print the commit's address."""
    from llgbm.evaluation.published import scores_for_card
    from llgbm.files import hash_tensors
    from llgbm.lora.adapter_config import CONFIG_FILE
    from llgbm.lora.peft_io import adapter_hash
    from llgbm.models.ensemble import load_generator
    from llgbm.models.export import push_adapter

    is_adapter = (Path(args.folder) / CONFIG_FILE).is_file()
    generator = None if is_adapter else load_generator(args.folder)
    pushed = {"adapter": adapter_hash(args.folder)} if generator is None else {"generator": hash_tensors(generator.state_dict())}
    scores = scores_for_card(args.scores, **pushed) if args.scores else []
    if generator is None:
        address = push_adapter(args.folder, args.repository, args.license, scores, args.private)
    else:
        address = generator.push_to_hub(args.repository, args.license, scores, args.private)
    if args.json:
        print_json({"commit": address})
    else:
        print(f"pushed: {address}")
    return 0
