"""Fine-tune a model: see `python finetune.py --help`."""

import sys

from gpt_tf2.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]], prog="finetune.py"))
