"""The timeline of one factory as SVG: a row for each processor, a bar for each machine, ends that fall together marked.

Drawn by hand, as it needs nothing but rectangles and text; `png` turns it into pixels with cairosvg where that is
installed.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from lmd.simulate.world import Bar
from lmd.vacuum.decision import many

WIDTH, LEFT, RIGHT, TOP = 1200, 64, 24, 84
PALETTE = ("#3b6fb6", "#e08b3e", "#4f9d69", "#a05fa8", "#c8534f", "#4aa3a8", "#8a7a4a", "#7382a8", "#c77fa3", "#6b6b6b")
FAILED, TOLD, INK, QUIET = "#c0392b", "#222222", "#2b2b2b", "#8a8a8a"
FEW_PIXELS = 0.35
FONT = "font-family='Helvetica, Arial, sans-serif'"


def svg(bars: Sequence[Bar], title: str, *, processors: int, begin: float, end: float) -> str:
    """The machines of one factory between `begin` and `end` (seconds from the beginning of the simulation)."""
    shown = [bar for bar in bars if bar.end > begin and bar.begin < end]
    height = max(5.0, min(16.0, 620.0 / max(processors, 1)))
    names = list(dict.fromkeys(bar.machinetype for bar in sorted(bars, key=lambda bar: bar.machinetype)))
    colours = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}
    drawing = _Drawing(begin, end, height, processors, colours)
    inside = [*drawing.frame(title), *drawing.machines(shown), *drawing.ends(shown), *drawing.axis(), *drawing.legend()]
    total = drawing.bottom + 78
    size = f"width='{WIDTH}' height='{total:.0f}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {total:.0f}' {size}>"
    return "\n".join([head, f"<rect width='{WIDTH}' height='{total:.0f}' fill='white'/>", *inside, "</svg>", ""])


class _Drawing:
    def __init__(self, begin: float, end: float, height: float, processors: int, colours: dict[str, str]) -> None:
        self.begin, self.end, self.height, self.processors, self.colours = begin, end, height, processors, colours
        self.scale = (WIDTH - LEFT - RIGHT) / max(end - begin, 1.0)
        self.bottom = TOP + height * processors

    def x(self, time: float) -> float:
        return LEFT + (min(max(time, self.begin), self.end) - self.begin) * self.scale

    def frame(self, title: str) -> Iterator[str]:
        width = WIDTH - LEFT - RIGHT
        yield f"<text x='{LEFT}' y='34' {FONT} font-size='20' font-weight='600' fill='{INK}'>{escape(title)}</text>"
        yield (
            f"<text x='{LEFT}' y='58' {FONT} font-size='13' fill='{QUIET}'>a row for each processor; white is free;"
            " a red edge: ended without having done work; a dark edge: told to end early</text>"
        )
        yield (
            f"<rect x='{LEFT}' y='{TOP}' width='{width}' height='{self.bottom - TOP:.1f}' fill='#fafafa'"
            " stroke='#cccccc' stroke-width='1'/>"
        )
        step = max(1, 2 ** math.ceil(math.log2(max(self.processors / 8, 1))))
        for row in range(0, self.processors, step):
            y = TOP + self.height * (row + 0.5) + 4
            place = f"x='{LEFT - 8}' y='{y:.1f}' text-anchor='end'"
            yield f"<text {place} {FONT} font-size='11' fill='{QUIET}'>{row + 1}</text>"

    def machines(self, bars: Sequence[Bar]) -> Iterator[str]:
        for bar in bars:
            left, right = self.x(bar.begin), self.x(bar.end)
            if right - left < FEW_PIXELS and bar.useful:
                continue
            for first, last in _runs(bar.rows):
                y, size = TOP + self.height * first, self.height * (last - first + 1)
                yield self._machine(bar, left, max(right - left, 1.2), y, size)

    def _machine(self, bar: Bar, x: float, width: float, y: float, size: float) -> str:
        fill = self.colours[bar.machinetype]
        gap = 0.4 if self.height < 8 else 0.8
        shape = f"x='{x:.1f}' y='{y + gap:.1f}' width='{max(width - 0.6, 0.8):.1f}' height='{size - 2 * gap:.1f}'"
        hours = (bar.end - bar.begin) / 3600
        ended = f"ended with {bar.code}" if bar.code is not None else "ended without a message"
        about = escape(f"{bar.machinetype}, {many(len(bar.rows), 'processor')}, {hours:.1f} h, {ended}")
        paint = f"fill='{fill}' fill-opacity='{0.9 if bar.useful else 0.35}'"
        body = f"<rect {shape} rx='1' {paint}><title>{about}</title></rect>"
        if not bar.useful or bar.told:
            edge = FAILED if not bar.useful else TOLD
            right = x + max(width - 1.6, 0.2)
            body += f"<rect x='{right:.1f}' y='{y + gap:.1f}' width='1.6' height='{size - 2 * gap:.1f}' fill='{edge}'/>"
        if width > 70 and size >= 24:
            place = f"x='{x + 6:.1f}' y='{y + size / 2 + 4:.1f}'"
            text = escape(f"{bar.machinetype} × {len(bar.rows)}")
            body += f"<text {place} {FONT} font-size='12' fill='white'>{text}</text>"
        return body

    def ends(self, bars: Sequence[Bar]) -> Iterator[str]:
        """Times at which many processors come free together."""
        ends = Counter[int]()
        for bar in bars:
            ends[round(bar.end / 60)] += len(bar.rows)
        for minute, freed in ends.items():
            x = self.x(minute * 60.0)
            if freed >= 8 and LEFT < x < WIDTH - RIGHT:
                size = 3 + 6 * min(freed / self.processors, 1.0)
                yield (
                    f"<path d='M{x:.1f} {TOP - 2} l{-size / 2:.1f} {-size:.1f} h{size:.1f} z' fill='{QUIET}'>"
                    f"<title>{freed} processors come free together</title></path>"
                )

    def axis(self) -> Iterator[str]:
        hours = (self.end - self.begin) / 3600
        step = next((one for one in (1, 2, 3, 6, 12, 24, 48, 168, 336, 720) if hours / one <= 14), 2160)
        hour = math.ceil(self.begin / 3600 / step) * step
        while hour * 3600 <= self.end:
            x = self.x(hour * 3600.0)
            label = f"day {hour // 24}" if hour % 24 == 0 else f"{hour % 24} h"
            line = f"x1='{x:.1f}' y1='{TOP}' x2='{x:.1f}' y2='{self.bottom + 5:.1f}'"
            yield f"<line {line} stroke='#000' stroke-opacity='.08'/>"
            yield (
                f"<text x='{x:.1f}' y='{self.bottom + 20:.1f}' {FONT} font-size='12' text-anchor='middle'"
                f" fill='{INK if hour % 24 == 0 else QUIET}'>{label}</text>"
            )
            hour += step

    def legend(self) -> Iterator[str]:
        x, y = float(LEFT), self.bottom + 48
        for name, colour in self.colours.items():
            yield f"<rect x='{x:.0f}' y='{y - 11:.0f}' width='14' height='14' rx='2' fill={quoteattr(colour)}/>"
            yield f"<text x='{x + 20:.0f}' y='{y + 1:.0f}' {FONT} font-size='13' fill='{INK}'>{escape(name)}</text>"
            x += 44 + 7.5 * len(name)


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbours."""
    first = last = rows[0] if rows else 0
    for row in rows[1:]:
        if row != last + 1:
            yield first, last
            first = row
        last = row
    if rows:
        yield first, last


def png(drawing: str) -> bytes:
    """The same as pixels. Raises ModuleNotFoundError without cairosvg."""
    import cairosvg

    made: bytes = cairosvg.svg2png(bytestring=drawing.encode(), scale=2)
    return made
