"""`python hack/gameday` from the root, or `python -m gameday` with hack/ on the path."""

import sys
from pathlib import Path

if not __package__:  # run by its path: make `import gameday` mean this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from gameday.cli import main

sys.exit(main())
