"""Entry point of `python -m cvmfs`."""

import gc
import sys

gc.disable()  # while modules are loaded, nothing can be collected

from cvmfs.commands import main  # noqa: E402

if __name__ == "__main__":
    gc.enable()
    sys.exit(main())
