"""A runtime without an engine: machines are scripts on paper, and everything that can go wrong does so on request."""

from runtimes.fake.engine import Clock, FakeEngine, WallClock
from runtimes.fake.faults import CRASH_POINTS, EXCHANGES, Crash, Faults
from runtimes.fake.runtime import Fake

__all__ = ["CRASH_POINTS", "EXCHANGES", "Clock", "Crash", "Fake", "FakeEngine", "Faults", "WallClock"]
