"""`python hack/demo/played --port 8080 --api URL --ca FILE --token-file FILE`: runs until it is told to stop."""

import argparse
import sys
from pathlib import Path

if not __package__:  # run by its path: make `import demo` mean the folder above
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from demo.played.service import Backends, serve
from testbed.rest import Rest


def main() -> None:
    """Reads the flags and serves."""
    parser = argparse.ArgumentParser(prog="played", description="Serves what the pods of a Deployment would serve.")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--api", required=True, help="URL of the API server")
    parser.add_argument("--ca", type=Path, required=True, help="file with the API server's CA")
    parser.add_argument("--token-file", type=Path, required=True, help="file with a bearer token that may list pods")
    parser.add_argument("--namespace", default="covet")
    parser.add_argument("--selector", default="app=covet", help="labels of the pods behind the service")
    parser.add_argument("--traffic", type=float, default=40, help="requests per second that it sends to itself")
    given = parser.parse_args()
    api = Rest(given.api, given.token_file.read_text().strip(), given.ca)
    serve(given.port, Backends(api, given.namespace, given.selector), given.traffic)


main()
