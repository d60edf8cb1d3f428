"""Which ways to AWS are kept: those in use lately, so many for each owner and in all.

Making one takes 0.2 s, and its clients some MB. Whoever has one goes on with it when it is not kept any more: its
threads end with its last user.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from paramedic.api.connection import AwsAccess, Keys
from paramedic.clients.aws import Aws, Patience

_IDLE_SECONDS = 15 * 60.0
_MOST_OF_ONE = 8
_MOST_IN_ALL = 64
Key = tuple[str, str, AwsAccess, Patience | None]


@dataclass(slots=True)
class _Kept:
    aws: Aws
    keys: Keys | None
    used_at: float


class AwsPool:
    """One for each connection and patience; new keys of a connection take the earlier ones' place. An ``owner``, which
    is a namespace or one of the settings' connections, cannot crowd out those that have fewer.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[Key, _Kept] = {}  # the one that was used last at the end

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, owner: str, name: str, access: AwsAccess, keys: Keys | None, patience: Patience | None) -> Aws:
        """The connection's way to AWS. Raises Terminal without the library."""
        key, now = (owner, name, access, patience), self._clock()
        known = self._kept.pop(key, None)
        if known is None or known.keys != keys:
            self._make_room(owner, now)
            known = _Kept(Aws(name, access, keys, patience), keys, now)
        known.used_at = now
        self._kept[key] = known
        return known.aws

    def close(self) -> None:
        """Ends what is kept, at the end of the process."""
        for one in self._kept.values():
            one.aws.close()

    def _make_room(self, owner: str, now: float) -> None:
        """Forgets those that nobody has used for long, then the oldest of whoever has too many."""
        self._kept = {key: one for key, one in self._kept.items() if now - one.used_at < _IDLE_SECONDS}
        held = Counter(of for of, *_ in self._kept)
        if held[owner] < _MOST_OF_ONE and len(self._kept) < _MOST_IN_ALL:
            return
        whose = owner if held[owner] >= _MOST_OF_ONE else held.most_common(1)[0][0]
        del self._kept[next(key for key in self._kept if key[0] == whose)]
