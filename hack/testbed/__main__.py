"""`python3 hack/testbed …` from the root, or `python3 -m testbed …` with hack/ on the path."""

import sys
from pathlib import Path

if not __package__:  # run by its path: make `import testbed` mean this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from testbed.cli import main

sys.exit(main())
