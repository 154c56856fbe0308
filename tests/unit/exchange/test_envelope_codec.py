from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelagos.exchange import (
    Envelope,
    Performative,
    Status,
    decode,
    decode_error,
    encode,
    encode_error,
    reply_to,
)
from pelagos.model import Scope
from pelagos.model.errors import Conflict, InvalidInput, NotFound, Retry, from_payload

ENVELOPES = st.builds(
    Envelope,
    receiver=st.text(),
    sender=st.text(),
    op=st.text(),
    performative=st.sampled_from(Performative),
    conv_id=st.text(),
    content=st.binary(max_size=200),
    conv_seq=st.integers(0, 2**31),
    protocol=st.text(),
    status=st.sampled_from(Status),
    reply_to=st.none() | st.text(),
    ts=st.integers(0, 2**53),
    remaining_ms=st.none() | st.integers(0, 2**31),
    depth=st.integers(0, 100),
    identity=st.none() | st.builds(Scope, project_id=st.text(), user_id=st.text()),
    trace=st.text(),
    request_id=st.none() | st.text(),
)


@given(ENVELOPES)
def test_what_is_encoded_comes_back(envelope: Envelope) -> None:
    assert decode(encode(envelope)) == envelope


def test_header_names_are_those_of_the_reference_and_the_schema_version_travels() -> None:
    envelope = Envelope(
        "service:a", "process:b", "op", Performative.REQUEST, "b#1", reply_to="process:b", trace="t", request_id="r"
    )
    headers = msgspec.msgpack.decode(encode(envelope))
    assert headers["conv-id"] == "b#1"
    assert headers["reply-to"] == "process:b"
    assert headers["performative"] == "request"
    assert headers["request-id"] == "r"


def test_content_is_not_encoded_again() -> None:
    content = msgspec.msgpack.encode({"n": 1})
    wire = encode(Envelope("service:a", "process:b", "op", Performative.REQUEST, "b#1", content))
    assert content in wire
    assert decode(wire).content == content


DEEP = b"\x91" * 5000 + b"\x00"


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x80", b"hello", msgspec.msgpack.encode({"receiver": 1}), DEEP, b"\x81\xa3new" + DEEP],
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a message"):
        decode(data)


def test_a_newer_schema_is_refused() -> None:
    newer = Envelope("service:a", "process:b", "op", Performative.REQUEST, "b#1", v=99)
    with pytest.raises(InvalidInput, match="schema 99"):
        decode(encode(newer))


def test_replies_belong_to_the_request() -> None:
    request = Envelope("service:a", "process:b", "op", Performative.REQUEST, "b#1", reply_to="process:b", trace="t")
    reply = reply_to(request, Performative.REFUSE, b"x", sender="process:a", status=Status.ERROR)
    assert (reply.receiver, reply.conv_id, reply.conv_seq, reply.trace) == ("process:b", "b#1", 2, "t")
    assert reply.is_reply
    assert not request.is_reply


def test_errors_travel_with_their_class_and_advice() -> None:
    error = NotFound("no server 7", advice="List them.", details={"id": 7})
    error.retry = Retry.TRANSIENT
    back = from_payload(decode_error(encode_error(error)))
    assert isinstance(back, NotFound)
    assert (back.message, back.advice, back.details, back.retry) == (
        "no server 7",
        "List them.",
        {"id": 7},
        Retry.TRANSIENT,
    )


@pytest.mark.parametrize("details", [{"x": object()}, {"big": 2**100}, {("a", "b"): 1}])
def test_errors_travel_whatever_their_details(details: dict[object, object]) -> None:
    payload = decode_error(encode_error(Conflict("no", details=details)))  # type: ignore[arg-type]
    assert payload.code == "conflict"
    assert len(payload.details) == 1


def test_an_unreadable_error_is_an_error() -> None:
    assert decode_error(b"\x01").code == "internal_error"


def test_an_error_that_nests_too_deep_cannot_be_read() -> None:
    content = b"\x83\xa4code\xa1x\xa7message\xa1y\xa7details\x81\xa1d" + DEEP
    assert "cannot be read" in decode_error(content).message


@pytest.mark.parametrize("back", [None, "", "service:a", "topic:x.y", "fanout:x", "nonsense"])
def test_only_a_mailbox_gets_an_answer(back: str | None) -> None:
    request = Envelope("service:a", "process:b", "op", Performative.REQUEST, "b#1", reply_to=back)
    assert not request.wants_answer
    assert msgspec.structs.replace(request, reply_to="process:b").wants_answer
    assert not msgspec.structs.replace(request, reply_to="process:b", performative=Performative.INFORM).wants_answer
