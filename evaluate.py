"""Score a model: see `python evaluate.py --help`."""

import sys

from gpt_tf2.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]], prog="evaluate.py"))
