"""The database's tables, and the steps from each earlier version of them to the next."""

STEPS: tuple[str, ...] = (
    """
    CREATE TABLE machine (
        id TEXT PRIMARY KEY, phase TEXT NOT NULL, machinetype TEXT NOT NULL, created REAL NOT NULL, ended REAL,
        body TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX machine_ended ON machine (ended);
    CREATE TABLE event (
        seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, machine TEXT NOT NULL, data TEXT NOT NULL
    );
    CREATE INDEX event_machine ON event (machine);
    CREATE TABLE warning (key TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE intent (key TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE backoff (machinetype TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    """,
)
"""Step N leads from version N to N + 1. A step that has been released is never changed."""

VERSION = len(STEPS)
TABLES = frozenset({"machine", "event", "warning", "intent", "backoff"})
