"""``python -m paramedic.plugin``: the same as the console script."""

import sys

from paramedic.plugin.main import main

sys.exit(main())
