"""The table of actions: the step key, and what carries it out."""

from paramedic.actions.base import Action
from paramedic.actions.restart import Restart
from paramedic.actions.rollback import Rollback
from paramedic.actions.scale import Scale

ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Restart(),
        Scale(),
        Rollback(),
    )
}
