"""Rot13: the types and limits of an argument are its annotations, so the operation is written for what is right.

Run it::

    pelagos container rot13.yaml
    pelagos call rot13 encode --content '{"text": "Hello"}'
"""

import codecs
from typing import Annotated

import msgspec

from pelagos.model.errors import InvalidInput
from pelagos.process import ServiceProcess, operation


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    times: Annotated[int, msgspec.Meta(ge=1, le=13)] = 1


class Rot13Service(ServiceProcess):
    name = "rot13"

    @operation
    async def encode(self, request: Text) -> str:
        if not request.text.isascii():  # what annotations cannot say
            raise InvalidInput("rot13 knows the letters of English alone", advice="Write it in ASCII.")
        return codecs.encode(request.text, "rot13") if request.times % 2 else request.text
