"""`python hack/bench` from the root, or `python -m bench` with hack/ on the path."""

import sys
from pathlib import Path

if not __package__:  # run by its path: make `import bench` mean this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.cli import main

sys.exit(main())
