"""What RDS answers while it fails over, put into the answers of moto, which does it at once and tells nothing of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from aws.faults import Fault, rewritten

FAILING_OVER = rewritten("<Status>available</Status>", "<Status>failing-over</Status>")


def told(message: str, at: datetime | None = None, category: str = "failover") -> Fault:
    """RDS tells of an event."""
    event = (
        f"<Event><SourceIdentifier>covet-aurora</SourceIdentifier><SourceType>db-cluster</SourceType>"
        f"<Message>{message}</Message><EventCategories><EventCategory>{category}</EventCategory></EventCategories>"
        f"<Date>{(at or datetime.now(UTC)).isoformat()}</Date></Event>"
    )
    return rewritten(r"<Events\s*/>|<Events></Events>", f"<Events>{event}</Events>")


def writer_still(name: str) -> Fault:
    """AWS shows this instance as the writer, as it does until a failover is through."""

    def rewrite(text: str) -> str:
        def member(found: re.Match[str]) -> str:
            writes = f"<DBInstanceIdentifier>{name}<" in found[0]
            flag = f"<IsClusterWriter>{str(writes).lower()}</IsClusterWriter>"
            return re.sub(r"<IsClusterWriter>\w+</IsClusterWriter>", flag, found[0])

        return re.sub(r"<DBClusterMember>.*?</DBClusterMember>", member, text, flags=re.DOTALL)

    return Fault(rewrite=rewrite)


def compose(*faults: Fault) -> Fault:
    def rewrite(text: str) -> str:
        for one in faults:
            assert one.rewrite is not None
            text = one.rewrite(text)
        return text

    return Fault(rewrite=rewrite)
