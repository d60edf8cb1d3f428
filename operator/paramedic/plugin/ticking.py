"""``kubectl incident tick``: an item of the post-incident checklist is done."""

import click

from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.saying import write
from paramedic.plugin.session import connection_options, item_argument, name_argument, output_option, session
from paramedic.plugin.texts import Json, at


@click.command()
@name_argument
@item_argument
@click.option("--undo", is_flag=True, help="Take your tick back.")
@output_option("json", "yaml", "name")
@connection_options
def tick(name: str, item: str, undo: bool, form: str | None) -> None:
    """Tick an item of the checklist: its number, as `show` has it, or words of it."""
    incidents = session().incidents
    me = incidents.whoami()
    text = find_item(incidents.get(name), item)
    mine = {"item": text, "doneBy": me}

    def change(incident: Json) -> Json:
        ticks = at(incident, "spec", "checklist", default=[])
        if undo:
            return {"checklist": [one for one in ticks if one != mine]} if mine in ticks else {}
        return {} if mine in ticks else {"checklist": [*ticks, mine]}

    done = f"{me} takes the tick back" if undo else f"ticked by {me}"
    write(name, change, [f"{name}: {text}: {done}"], form)


def find_item(incident: Json, wanted: str) -> str:
    """The item with that number, or the only one with those words. Raises Failure that lists them."""
    items = [entry["item"] for entry in at(incident, "status", "checklist", default=[])]
    name = incident["metadata"]["name"]
    if not items:
        raise Failure(Exit.CONFLICT, f"{name} has no checklist: there is one when something was done and it is over")
    if wanted.isdecimal() and 0 < int(wanted) <= len(items):
        return str(items[int(wanted) - 1])
    exact = [one for one in items if one.lower() == wanted.lower()]
    found = exact or [one for one in items if wanted.lower() in one.lower()]
    if len(found) == 1:
        return str(found[0])
    what = f"several items of {name} are called" if found else f"no item of {name} is called"
    listed = [f"  {number:>2}  {one}" for number, one in enumerate(items, 1)]
    raise Failure(Exit.USAGE, "\n".join([f"{what} {wanted!r}:", *listed]))
