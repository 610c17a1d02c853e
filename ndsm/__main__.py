"""`python -m ndsm` is `ndsm`."""

import sys

from ndsm.cli import main

if __name__ == "__main__":
    sys.exit(main())
