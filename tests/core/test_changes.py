"""What an action changes, field by field."""

from paramedic.core.changes import field_changes


def test_only_what_differs_in_the_order_of_the_fields() -> None:
    before = {"replicas": 3, "same": 1, "spec": {"a": {"b": {"c": 1}}}, "gone": "x"}
    after = {"replicas": 10, "same": 1, "spec": {"a": {"b": {"c": 2}}}, "new": None}
    assert field_changes(before, after) == [
        ("replicas", "3", "10"),
        ("spec.a.b", '{"c": 1}', '{"c": 2}'),
        ("gone", '"x"', None),
        ("new", None, "null"),
    ]


def test_nothing_is_changed_before_it_is_planned() -> None:
    assert field_changes({"replicas": 3}, None) == []
    assert field_changes(None, {"replicas": 3}) == [("replicas", None, "3")]
