"""Generate from a model: see `python inference.py --help`."""

import sys

from gpt_tf2.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]], prog="inference.py"))
