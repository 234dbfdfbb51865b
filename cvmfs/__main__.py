"""Entry point of `python -m cvmfs`."""

import sys

from cvmfs.commands import main

if __name__ == "__main__":
    sys.exit(main())
