"""`python -m ndsm` is `ndsm`."""

import sys

from ndsm.cli import main

sys.exit(main())
