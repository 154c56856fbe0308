"""Live progress on a terminal: one line a node, redrawn in place. The only module that draws with rich.

With more nodes than lines, those in which something happens are shown first and the rest is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pelagos.cli.texts import count, duration
from pelagos.cli.trail import NodeTrail, Trail
from pelagos.cli.wording import sentence
from pelagos.wire.infrastructures import EventView

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation

__all__ = ["LiveProgress"]

_MARKS = {"ready": ("✓", "green"), "failed": ("✗", "red"), "destroyed": ("✓", "magenta"), "waiting": ("·", "dim")}
_STYLES = {"ready": "green", "failed": "red", "destroying": "magenta", "destroyed": "magenta", "waiting": "dim"}
_ORDER = ("failed", "uncertain", "temp_failed", "destroying", "checking", "building", "pending", "waiting")


class LiveProgress:
    """See :class:`pelagos.cli.progress.Progress`."""

    def __init__(self, invocation: Invocation, trail: Trail, *, console: Console | None = None) -> None:
        self.trail = trail
        self._world = invocation.world
        self._console = console or Console(stderr=True, no_color=invocation.color is False, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=False, redirect_stdout=False)
        self._spinner = Spinner("dots")
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._start = self._world.monotonic()
        self._open = False

    def open(self) -> None:
        self._start = self._world.monotonic()
        self._live.start()
        self._open = True
        self.tick()

    def event(self, event: EventView) -> None:
        if not self.trail.feed(event) or event.node is None:
            return
        now = self._world.monotonic()
        node = self.trail.node(event.node)
        if event.kind == "node.refused":
            self.message(f"{node.name}: {sentence(event)}")
        if event.kind.startswith("instance."):
            self._began.setdefault(node.name, now)
        if node.done:
            self._took[node.name] = now - self._began.get(node.name, now)
        else:
            self._took.pop(node.name, None)

    def message(self, text: str) -> None:
        self._console.print(Text(text))

    def tick(self) -> None:
        if self._open:
            self._live.update(self.draw(), refresh=True)

    def close(self) -> None:
        if self._open:
            self.tick()
            self._open = False
            self._live.stop()

    def draw(self) -> Group:
        """The picture of this moment."""
        now = self._world.monotonic()
        nodes = list(self.trail.nodes.values())
        room = max(3, self._console.height - 4)
        shown = nodes if len(nodes) <= room else sorted(nodes, key=_urgency)[: room - 1]
        grid = Table.grid(padding=(0, 1))
        for _ in range(6):
            grid.add_column(no_wrap=True, overflow="ellipsis")
        for node in shown:
            grid.add_row(*self._row(node, now))
        lines: list[Table | Text] = [grid]
        hidden = len(nodes) - len(shown)
        if hidden:
            done = sum(node.done for node in nodes)
            lines.append(Text(f"  … and {count(hidden, 'more node')}; {done} of {len(nodes)} done", style="dim"))
        lines.append(Text(self._foot(now), style="dim"))
        return Group(*lines)

    def _row(self, node: NodeTrail, now: float) -> list[Text | Spinner | ProgressBar]:
        state = node.state
        mark = _MARKS.get(state)
        total = max(node.target, len(node.alive), 1)
        full = state == "destroyed"
        bar = ProgressBar(total=total, completed=0 if full else node.ready, width=16, finished_style="green")
        began = self._began.get(node.name)
        elapsed = self._took.get(node.name, now - began if began is not None else None)
        return [
            Text(*mark) if mark else self._spinner,
            Text(node.name, style="bold"),
            bar,
            Text(f"{node.ready}/{node.target}"),
            Text(state, style=_STYLES.get(state, "yellow")),
            Text(" ".join(part for part in (duration(elapsed) if elapsed else "", node.note) if part), style="dim"),
        ]

    def _foot(self, now: float) -> str:
        elapsed = duration(now - self._start)
        expected = f" of about {duration(self.trail.estimate)}" if self.trail.estimate else ""
        return f"  {elapsed}{expected}" + (f"  {self.trail.note}" if self.trail.note else "")


def _urgency(node: NodeTrail) -> int:
    return _ORDER.index(node.state) if node.state in _ORDER else len(_ORDER)
