"""How far the standbys of a PostgreSQL server are behind it, as it tells in pg_stat_replication."""

from typing import LiteralString

from paramedic.api.reasons import Reason
from paramedic.clients.postgres import Postgres
from paramedic.errors import Refused

_CONNECT_SECONDS = 5.0
_STATEMENT_SECONDS = 3.0
# A standby that has replayed all has no lag; replay_lag alone is NULL then, or what it was before.
_LAGS: LiteralString = """
SELECT application_name AS name, state IS NOT NULL AS told,
       CASE WHEN replay_lsn >= pg_current_wal_lsn() THEN 0 ELSE extract(epoch FROM replay_lag)::float8 END AS seconds
FROM pg_stat_replication"""


async def replica_lags(database: Postgres) -> dict[str, float]:
    """Seconds by which standbys have not replayed what the server has written, by the name that each gave itself;
    those of which it knows none are left out. Raises Refused when the role may not see it, Terminal (a standby itself
    is asked), Unreachable.
    """
    async with database.session(_STATEMENT_SECONDS, connect_seconds=_CONNECT_SECONDS, tries=1) as session:
        rows = await session.rows(_LAGS)
        if not all(row["told"] for row in rows):
            raise Refused(Reason.FORBIDDEN, f"{database.name}: the role sees no lags: GRANT pg_monitor to it")
        unknown = {row["name"] for row in rows if row["seconds"] is None}
        known = sorted((float(row["seconds"]), str(row["name"])) for row in rows if row["name"] not in unknown)
        return {name: seconds for seconds, name in known}
