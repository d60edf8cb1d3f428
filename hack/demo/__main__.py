"""`python hack/demo` from the root, or `python -m demo` with hack/ on the path."""

import sys
from pathlib import Path

if not __package__:  # run by its path: make `import demo` mean this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from demo.story import main

sys.exit(main())
