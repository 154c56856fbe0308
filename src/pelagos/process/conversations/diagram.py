"""A protocol's table drawn as a Mermaid state diagram."""

from __future__ import annotations

from pelagos.process.conversations.protocol import After, Protocol

__all__ = ["mermaid"]


def mermaid(protocol: Protocol) -> str:
    """The text of a ``stateDiagram-v2``: one arrow a row of the table, final states with their outcome."""
    lines = ["stateDiagram-v2", f"    %% {protocol.name}: {', '.join(protocol.roles)}"]
    ids = {state: f"s{number}" for number, state in enumerate(protocol.states)}
    lines += [f'    state "{_text(state)}" as {name}' for state, name in ids.items()]
    lines.append(f"    [*] --> {ids[protocol.initial]}")
    for row in protocol.table:
        if isinstance(row, After):
            said = "deadline" if row.seconds is None else f"after {row.seconds:g} s"
        else:
            said = f"{row.role}: {row.performative}{f' ({row.op})' if row.op else ''}"
        lines.append(f"    {ids[row.state]} --> {ids[row.to]} : {_text(said)}")
    lines += [f"    {ids[state]} --> [*] : {outcome}" for state, outcome in protocol.final.items()]
    return "\n".join(lines) + "\n"


def _text(said: str) -> str:
    return said.replace('"', "'").replace("\n", " ").replace(";", ",").replace("#", "")
