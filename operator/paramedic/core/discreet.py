"""What may be told of an API server's refusal to change a Secret.

Its message can quote values: a value that is no base64 has it print the whole Secret, and a webhook may say anything.
So nothing of a message is told but what is known to be harmless.
"""

from typing import Any

import re2

_LIMIT = 500


def _pattern(text: str) -> Any:
    return re2.compile(text)  # type: ignore[no-untyped-call]


_HARMLESS = tuple(
    _pattern(text)
    for text in (
        r'^[a-z.]+ "[a-z0-9.-]+" is forbidden: User "[^"]{1,253}" cannot [a-z]+ resource "[a-z]+" '
        r'in API group "[a-z.]*" in the namespace "[a-z0-9-]+"$',
        r'^[a-z.]+ "[a-z0-9.-]+" not found$',
        r"field is immutable when `immutable` is set",
        r"may not be more than [0-9]+ bytes",
        r"the object has been modified",
        r'metadata\.uid: Invalid value: "[0-9a-f-]+": field is immutable',
        r"uid mismatch",
        r"namespace [a-z0-9-]+ because it is being terminated",
        r'admission webhook "[a-z0-9.-]+" denied the request',
        r"ValidatingAdmissionPolicy '[a-z0-9.-]+' with binding '[a-z0-9.-]+' denied request",
    )
)


def harmless_part(message: str) -> str:
    """The parts of a refusal's message that hold no value of a Secret."""
    found = [match.group(0) for pattern in _HARMLESS if (match := pattern.search(message))]
    return "; ".join(found)[:_LIMIT] or "the rest of the answer is left out, as it may quote values"
