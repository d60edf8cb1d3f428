"""The table of actions: the step key, and what carries it out."""

from paramedic.actions.await_database import AwaitDatabase
from paramedic.actions.base import Action
from paramedic.actions.block_addresses import BlockAddresses
from paramedic.actions.block_traffic import BlockTraffic
from paramedic.actions.capture_evidence import CaptureEvidence
from paramedic.actions.database_failover import DatabaseFailover
from paramedic.actions.diagnose import Diagnose
from paramedic.actions.patch_config import PatchConfig
from paramedic.actions.rate_limit import RateLimit
from paramedic.actions.recover import Recover
from paramedic.actions.restart import Restart
from paramedic.actions.rollback import Rollback
from paramedic.actions.run_job import RunJob
from paramedic.actions.scale import Scale
from paramedic.actions.scale_by_queue import ScaleByQueue
from paramedic.actions.shutdown import Shutdown
from paramedic.actions.slow_query_log import SlowQueryLog
from paramedic.actions.terminate_queries import TerminateQueries

ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Restart(),
        Scale(),
        ScaleByQueue(),
        Rollback(),
        PatchConfig(),
        BlockTraffic(),
        RateLimit(),
        CaptureEvidence(),
        Diagnose(),
        BlockAddresses(),
        DatabaseFailover(),
        AwaitDatabase(),
        RunJob(),
        Shutdown(),
        Recover(),
        TerminateQueries(),
        SlowQueryLog(),
    )
}
