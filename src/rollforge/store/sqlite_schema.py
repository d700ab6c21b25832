"""The tables, indexes and triggers of a task store in SQLite, as the migrations that create them."""

from __future__ import annotations

from rollforge.store.search import SEARCH_TABLES

__all__ = ["MIGRATIONS", "SCHEMA_VERSION"]


_TALLIES = ("waiting", "running", "part_done", "done", "failed")
"""Columns of the table ``tallies``. Migrations that were released do not change, whatever statuses are added later."""


def _tallied(change: str) -> str:
    """Return the assignments that change the tally of each status; ``{0}`` in `change` stands for the status."""
    return ", ".join(f"{name} = {name} {change.format(repr(name))}" for name in _TALLIES)


MIGRATIONS = (
    """
CREATE TABLE tasks (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    pool         TEXT NOT NULL,
    id           TEXT NOT NULL,
    definition   TEXT NOT NULL,
    status       TEXT NOT NULL DEFAULT 'waiting',
    stage_from   TEXT NOT NULL DEFAULT 'waiting',
    priority     INTEGER NOT NULL DEFAULT 0,
    attempt      INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL DEFAULT 3,
    token        INTEGER NOT NULL DEFAULT 0,
    lease_until  REAL,
    available_at REAL NOT NULL DEFAULT 0,
    worker       TEXT,
    created_at   REAL NOT NULL,
    started_at   REAL,
    finished_at  REAL,
    error        TEXT,
    UNIQUE (pool, id)
);
CREATE INDEX tasks_by_turn ON tasks (pool, status, priority DESC, seq);
CREATE INDEX tasks_by_lease ON tasks (pool, lease_until) WHERE status = 'running';
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('token', 0);
CREATE TABLE results (
    pool  TEXT NOT NULL,
    id    TEXT NOT NULL,
    plain TEXT,
    blob  BLOB,
    PRIMARY KEY (pool, id)
) WITHOUT ROWID
""",
    """
ALTER TABLE tasks ADD COLUMN cause TEXT;
ALTER TABLE tasks ADD COLUMN log TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN blocked INTEGER NOT NULL DEFAULT 0;
DROP INDEX tasks_by_turn;
CREATE INDEX tasks_by_turn ON tasks (pool, status, blocked, priority DESC, seq);
CREATE TABLE needs (
    pool  TEXT NOT NULL,
    id    TEXT NOT NULL,
    needs TEXT NOT NULL,
    PRIMARY KEY (pool, id, needs)
) WITHOUT ROWID;
CREATE INDEX needs_by_prerequisite ON needs (pool, needs);
CREATE TABLE paused (pool TEXT PRIMARY KEY) WITHOUT ROWID
""",
    "ALTER TABLE tasks ADD COLUMN model_name TEXT NOT NULL DEFAULT ''",
    """
CREATE TABLE clock (boot TEXT PRIMARY KEY, start REAL NOT NULL) WITHOUT ROWID
""",
    SEARCH_TABLES,
    """
ALTER TABLE tasks ADD COLUMN failed_by TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN submission TEXT NOT NULL DEFAULT '';
CREATE TABLE submissions (
    pool       TEXT NOT NULL,
    id         TEXT NOT NULL,
    facts      TEXT NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (pool, id)
) WITHOUT ROWID
""",
    f"""
ALTER TABLE tasks ADD COLUMN unmet INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN claim TEXT;
ALTER TABLE tasks ADD COLUMN ending TEXT;
UPDATE tasks SET unmet = (
    SELECT COUNT(*) FROM needs n LEFT JOIN tasks p ON p.pool = n.pool AND p.id = n.needs
    WHERE n.pool = tasks.pool AND n.id = tasks.id AND (p.status IS NULL OR p.status <> 'done')
) WHERE (pool, id) IN (SELECT pool, id FROM needs);
UPDATE tasks SET blocked = unmet > 0 WHERE blocked <> (unmet > 0);
CREATE INDEX tasks_by_claim ON tasks (pool, claim) WHERE status = 'running';
CREATE TABLE batches (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    pool    TEXT NOT NULL,
    name    TEXT NOT NULL,
    used_at REAL NOT NULL,
    UNIQUE (pool, name)
);
CREATE TABLE members (
    batch   INTEGER NOT NULL,
    task    INTEGER NOT NULL,
    state   TEXT NOT NULL,
    held    INTEGER NOT NULL,
    urgency INTEGER NOT NULL,
    PRIMARY KEY (task, batch)
) WITHOUT ROWID;
CREATE INDEX members_by_turn ON members (batch, state, held, urgency DESC, task);
CREATE TABLE tallies (
    batch     INTEGER NOT NULL,
    pool      TEXT NOT NULL,
    waiting   INTEGER NOT NULL DEFAULT 0,
    running   INTEGER NOT NULL DEFAULT 0,
    part_done INTEGER NOT NULL DEFAULT 0,
    done      INTEGER NOT NULL DEFAULT 0,
    failed    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (batch, pool)
) WITHOUT ROWID;
INSERT INTO tallies SELECT 0, pool, SUM(status = 'waiting'), SUM(status = 'running'), SUM(status = 'part_done'),
    SUM(status = 'done'), SUM(status = 'failed') FROM tasks GROUP BY pool;
CREATE TRIGGER task_made AFTER INSERT ON tasks BEGIN
    INSERT OR IGNORE INTO tallies (batch, pool) VALUES (0, NEW.pool);
    UPDATE tallies SET {_tallied("+ (NEW.status = {0})")} WHERE batch = 0 AND pool = NEW.pool;
END;
CREATE TRIGGER task_gone AFTER DELETE ON tasks BEGIN
    UPDATE tallies SET {_tallied("- (OLD.status = {0})")} WHERE batch = 0 AND pool = OLD.pool;
    DELETE FROM members WHERE task = OLD.seq;
END;
CREATE TRIGGER task_with_another_status AFTER UPDATE OF status ON tasks WHEN OLD.status <> NEW.status BEGIN
    UPDATE tallies SET {_tallied("+ (NEW.status = {0}) - (OLD.status = {0})")} WHERE batch = 0 AND pool = NEW.pool;
    UPDATE members SET state = NEW.status WHERE task = NEW.seq;
END;
CREATE TRIGGER task_in_another_turn AFTER UPDATE OF blocked, priority ON tasks
WHEN OLD.blocked <> NEW.blocked OR OLD.priority <> NEW.priority BEGIN
    UPDATE members SET held = NEW.blocked, urgency = NEW.priority WHERE task = NEW.seq;
END;
CREATE TRIGGER task_done AFTER UPDATE OF status ON tasks WHEN NEW.status = 'done' AND OLD.status <> 'done' BEGIN
    UPDATE tasks SET unmet = unmet - 1, blocked = unmet > 1
    WHERE pool = NEW.pool AND id IN (SELECT id FROM needs WHERE pool = NEW.pool AND needs = NEW.id);
END;
CREATE TRIGGER task_undone AFTER UPDATE OF status ON tasks WHEN NEW.status <> 'done' AND OLD.status = 'done' BEGIN
    UPDATE tasks SET unmet = unmet + 1, blocked = 1
    WHERE pool = NEW.pool AND id IN (SELECT id FROM needs WHERE pool = NEW.pool AND needs = NEW.id);
END;
CREATE TRIGGER done_task_gone AFTER DELETE ON tasks WHEN OLD.status = 'done' BEGIN
    UPDATE tasks SET unmet = unmet + 1, blocked = 1
    WHERE pool = OLD.pool AND id IN (SELECT id FROM needs WHERE pool = OLD.pool AND needs = OLD.id);
END;
CREATE TRIGGER need_made AFTER INSERT ON needs
WHEN NOT EXISTS (SELECT 1 FROM tasks WHERE pool = NEW.pool AND id = NEW.needs AND status = 'done') BEGIN
    UPDATE tasks SET unmet = unmet + 1, blocked = 1 WHERE pool = NEW.pool AND id = NEW.id;
END;
CREATE TRIGGER need_gone AFTER DELETE ON needs
WHEN NOT EXISTS (SELECT 1 FROM tasks WHERE pool = OLD.pool AND id = OLD.needs AND status = 'done') BEGIN
    UPDATE tasks SET unmet = unmet - 1, blocked = unmet > 1 WHERE pool = OLD.pool AND id = OLD.id;
END;
CREATE TRIGGER member_made AFTER INSERT ON members BEGIN
    INSERT OR IGNORE INTO tallies (batch, pool) VALUES (NEW.batch, '');
    UPDATE tallies SET {_tallied("+ (NEW.state = {0})")} WHERE batch = NEW.batch;
END;
CREATE TRIGGER member_gone AFTER DELETE ON members BEGIN
    UPDATE tallies SET {_tallied("- (OLD.state = {0})")} WHERE batch = OLD.batch;
END;
CREATE TRIGGER member_with_another_state AFTER UPDATE OF state ON members WHEN OLD.state <> NEW.state BEGIN
    UPDATE tallies SET {_tallied("+ (NEW.state = {0}) - (OLD.state = {0})")} WHERE batch = NEW.batch;
END
""",
    """
DROP INDEX tasks_by_claim;
CREATE INDEX tasks_by_claim ON tasks (claim) WHERE status = 'running'
""",
    "ALTER TABLE tasks ADD COLUMN creation TEXT NOT NULL DEFAULT ''",
    # The last failed attempt at a task is known from the task itself.
    """
CREATE TABLE attempts (
    task       INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    token      INTEGER NOT NULL,
    worker     TEXT,
    started_at REAL,
    ended_at   REAL NOT NULL,
    ending     TEXT NOT NULL,
    cause      TEXT,
    error      TEXT,
    PRIMARY KEY (task, number)
);
INSERT INTO attempts SELECT seq, CASE WHEN attempt BETWEEN 1 AND 1000000 THEN attempt ELSE 1 END, token, worker, started_at,
    finished_at, 'failed', cause, CASE WHEN length(error) > 16000 THEN substr(error, 1, 8000)
    || ' ... ' || substr(error, length(error) - 7999) ELSE error END
FROM tasks WHERE status <> 'running' AND started_at IS NOT NULL AND finished_at IS NOT NULL
    AND cause NOT IN ('cancelled', 'dependency', 'unfit');
CREATE TRIGGER attempts_gone AFTER DELETE ON tasks BEGIN
    DELETE FROM attempts WHERE task = OLD.seq;
END
""",
)
"""Scripts from each schema version to the next; version 0 is an empty file."""
SCHEMA_VERSION = len(MIGRATIONS)
