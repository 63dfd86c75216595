"""`python -m studio.cli`: the same as `nds`."""

import sys

from studio.cli.main import main

sys.exit(main())
