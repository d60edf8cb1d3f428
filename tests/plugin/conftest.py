"""A team whose people have tokens of their own."""

import pytest

from access.people import INCIDENTS, POLICIES, Teams, settle
from plugin.team import Team
from testbed.access import Access
from testbed.api import Api


@pytest.fixture(scope="module")
def teams(installed: Access) -> Teams:
    return settle(installed)


@pytest.fixture
async def team(installed: Access, admin: Api, teams: Teams) -> Team:
    """Without incidents and policies of other tests."""
    for resource in (INCIDENTS, POLICIES):
        for item in await admin.list(resource, teams.a):
            await admin.delete(resource, item["metadata"]["name"], teams.a)
    return Team(installed, admin, teams)
