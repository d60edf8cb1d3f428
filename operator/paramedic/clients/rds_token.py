"""Logins to RDS and Aurora without a password: a token of AWS IAM, good for 15 minutes, made anew for each session."""

import asyncio
import threading
from functools import cache
from typing import Any

from paramedic.api.connection import PostgresServer
from paramedic.clients.aws import new_session
from paramedic.clients.extras import require
from paramedic.errors import Unreachable

_SECONDS = 15.0
_one_at_a_time = threading.Lock()  # making a client is not safe in threads, using one is


async def rds_token(region: str, server: PostgresServer) -> str:
    """A token for the server's role, signed by the credentials of AWS' default chain. Raises Unreachable, Terminal."""
    require("aws")
    from botocore.exceptions import BotoCoreError

    try:
        async with asyncio.timeout(_SECONDS):
            return str(await asyncio.to_thread(_signed, region, server))
    except BotoCoreError as error:
        raise Unreachable(f"no token of AWS IAM for {server.username}: {error}") from error
    except TimeoutError as error:
        raise Unreachable(f"no token of AWS IAM for {server.username} within {_SECONDS:g} s") from error


def _signed(region: str, server: PostgresServer) -> Any:
    with _one_at_a_time:
        client = _client(region)
    return client.generate_db_auth_token(server.host, server.port, server.username, region)


@cache
def _client(region: str) -> Any:
    """One for all: its credentials are renewed by botocore, and a new client takes 0.2 s of a processor each time."""
    return new_session(region).create_client("rds")
