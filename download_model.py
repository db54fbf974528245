"""Download one of OpenAI's models to `models/SIZE`: see `python download_model.py --help`."""

import sys

from gpt_tf2.cli import main

if __name__ == "__main__":
    sys.exit(main(["download", "--folder=models", *sys.argv[1:]], prog="download_model.py"))
