"""`python hack/images paramedic covet --folder .`: writes paramedic.tar and covet.tar, and prints their paths."""

import argparse
import sys
from pathlib import Path

if not __package__:  # run by its path: make `import images` mean this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from images.catalog import PROGRAMS, build
from images.python import ImageError


def main() -> None:
    """Reads the flags and builds."""
    parser = argparse.ArgumentParser(prog="images", description="Container images as OCI layouts, from local files.")
    parser.add_argument("names", nargs="+", choices=sorted(PROGRAMS), metavar="|".join(sorted(PROGRAMS)))
    parser.add_argument("--folder", type=Path, default=Path(), help="where the tar files go (default: here)")
    given = parser.parse_args()
    for name in given.names:
        try:
            print(build(name, given.folder))
        except ImageError as error:
            sys.exit(f"error: {error}")


main()
