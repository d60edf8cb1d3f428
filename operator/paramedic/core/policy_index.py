"""Which policies may mean an alert, with their matchers compiled once, in bounded memory.

The matchers are tenants' own texts, and all tenants share one process. So those of one namespace take so much memory
and no more; the policies beyond do not answer until there is room.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from paramedic.api.policy import RemediationPolicy
from paramedic.core.alert import Alert
from paramedic.core.match import CompiledPolicy, compile_policy

ROOM_BYTES = 2 << 20
"""For all matchers of a namespace: about 500 that are regular expressions, or 1,000 that are not."""
MOST_POLICY_BYTES = 1 << 19
"""For those of one policy, so that no single one fills its namespace's room, or takes long to read."""
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Held:
    """A usable policy; ``compiled`` is None while there is no room for it."""

    policy: RemediationPolicy
    bytes: int
    compiled: CompiledPolicy | None


class PolicyIndex:
    """The usable policies, by the alert name that their matchers ask for: an alert is held against those few that may
    mean it.
    """

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self._room_bytes = room_bytes
        self._held: dict[str, dict[str, _Held]] = {}
        self._by_name: dict[str | None, list[CompiledPolicy]] | None = None

    def put(self, policy: RemediationPolicy) -> None:
        """Takes a policy in, or a newer copy of it. Raises ValueError when its matchers cannot be read."""
        compiled = self._compiled(policy)
        self._held.setdefault(policy.metadata.namespace, {})[policy.key] = _Held(policy, compiled.bytes, compiled)
        self._share_room(policy.metadata.namespace)

    def remove(self, key: str) -> None:
        """Forgets the policy ``namespace/name``, if it is known."""
        namespace = key.partition("/")[0]
        if self._held.get(namespace, {}).pop(key, None):
            self._share_room(namespace)

    def has_room(self, key: str) -> bool:
        """Whether the matchers of a policy that was put in have found room."""
        held = self._held.get(key.partition("/")[0], {}).get(key)
        return held is not None and held.compiled is not None

    def candidates(self, alert: Alert) -> list[CompiledPolicy]:
        """All policies that can match the alert, and others."""
        if self._by_name is None:
            self._by_name = self._named()
        return [*self._by_name.get(alert.labels.get("alertname", ""), ()), *self._by_name.get(None, ())]

    def _compiled(self, policy: RemediationPolicy) -> CompiledPolicy:
        """Most changes of a policy, first of all those of its status, leave its matchers as they are."""
        known = self._held.get(policy.metadata.namespace, {}).get(policy.key)
        if known and known.compiled and known.policy.spec.match.alerts == policy.spec.match.alerts:
            return CompiledPolicy(policy, known.compiled.entries)
        return compile_policy(policy)

    def _share_room(self, namespace: str) -> None:
        """The oldest first, so that nobody's new policy silences one that was there, and all replicas agree."""
        left, held = self._room_bytes, self._held[namespace]
        self._by_name = None
        if not held:
            del self._held[namespace]
        if sum(one.bytes for one in held.values()) <= left and all(one.compiled for one in held.values()):
            return
        for one in sorted(held.values(), key=_age):
            fits = one.bytes <= left
            left -= one.bytes if fits else 0
            one.compiled = (one.compiled or compile_policy(one.policy)) if fits else None

    def _named(self) -> dict[str | None, list[CompiledPolicy]]:
        by_name: dict[str | None, list[CompiledPolicy]] = {}
        for compiled in self._all_compiled():
            for name in _alert_names(compiled):
                by_name.setdefault(name, []).append(compiled)
        return by_name

    def _all_compiled(self) -> Iterator[CompiledPolicy]:
        return (one.compiled for held in self._held.values() for one in held.values() if one.compiled)


def _age(held: _Held) -> tuple[datetime, str]:
    return held.policy.metadata.creation_timestamp or _LAST, held.policy.metadata.name


def _alert_names(compiled: CompiledPolicy) -> set[str | None]:
    """The values that ``alertname`` must have, one for each entry; None for all when an entry asks for none."""
    asked = {
        next((m.value for m in entry if m.label == "alertname" and m.operator == "="), None)
        for entry in compiled.entries
    }
    return {None} if None in asked else asked
