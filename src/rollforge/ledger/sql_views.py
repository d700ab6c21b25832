"""SQL views of the entries of a ledger: ``service``, ``release``, ``day``, ``signal``, ``event``, ``check_result``,
``shadow``, ``comparison`` and ``score``.

They show the same data as :class:`~rollforge.ledger.state.ServiceState`. Times are UTC.
"""

from __future__ import annotations

from rollforge.ledger.entry import EntryKind

__all__ = ["SCORES", "VIEWS", "views"]

VIEWS = ("service", "release", "day", "signal", "event", "check_result", "shadow", "comparison", "score")
SCORES = """CREATE TABLE IF NOT EXISTS ledger_scores (
    service    TEXT NOT NULL,
    entry      BIGINT NOT NULL,
    day        TEXT NOT NULL,
    version    INTEGER NOT NULL,
    instrument TEXT NOT NULL,
    score      DOUBLE PRECISION,
    PRIMARY KEY (service, day, version, instrument)
)"""
"""The table of scores, which are stored in the transaction of their entry."""
_KNOWN = f"kind IN ({', '.join(repr(kind.value) for kind in EntryKind)})"
_RELEASE = (
    "task",
    "experiment_name",
    "recorder",
    "role",
    "from_day",
    "by",
    "reason",
    "strategy",
    "template",
    "instead_of",
)
_DAY = ("state", "data", "error", "fallback")
_SIGNAL = ("day", "file", "sha256", "why")
_SHADOW = ("day", "file", "sha256")
_COMPARISON = ("candidate", "champion", "metric", "verdict")
_CHECK = ("name", "day", "outcome", "text")


def views(sqlite: bool) -> list[str]:
    """Return the statements that replace the views by the current ones, in the SQL of SQLite or PostgreSQL."""
    dialect = _SQLITE if sqlite else _POSTGRES

    def text(document: str, key: str) -> str:
        return dialect["text"].format(document, key)

    def number(document: str, key: str, kind: str) -> str:
        return f"CAST({text(document, key)} AS {kind})"

    def json(document: str, key: str) -> str:
        return dialect["json"].format(document, key)

    def named(names: tuple[str, ...], document: str) -> str:
        return ", ".join(f'{text(document, name)} AS "{name}"' for name in names)

    def each(key: str) -> str:
        return f"FROM ledger_entries AS e {dialect['each'].format(key)} WHERE {_KNOWN}"

    value, body, place = "item.value", dialect["body"].format("e.body"), dialect["place"]
    when = dialect["time"].format("e.made_at")
    of_day = dialect["part"].format("e.body", "day")
    return [
        *(f"DROP VIEW IF EXISTS {name}" for name in VIEWS),
        f"CREATE VIEW service AS SELECT e.service AS name, e.number AS entry, {json(body, 'workflow')} AS workflow, "
        f"{json(body, 'policy')} AS policy, {when} AS made_at, e.author FROM ledger_entries AS e WHERE kind = 'service' "
        "AND NOT EXISTS (SELECT 1 FROM ledger_entries AS later WHERE later.service = e.service AND "
        "later.kind = 'service' AND later.number > e.number)",
        f"CREATE VIEW release AS SELECT e.service, e.number AS entry, {place} AS place, {named(_RELEASE, value)}, "
        f"{when} AS made_at {each('releases')}",
        f"CREATE VIEW day AS SELECT latest.service, latest.day, latest.number AS entry, {named(_DAY, of_day)}, "
        f"{number(of_day, 'seconds', 'DOUBLE PRECISION')} AS seconds, {json(of_day, 'trained')} AS trained, {when} AS made_at "
        f"FROM (SELECT service, {text(of_day, 'day')} AS day, MAX(number) AS number FROM ledger_entries AS e WHERE {_KNOWN} AND "
        f"{of_day} IS NOT NULL GROUP BY 1, 2) AS latest JOIN ledger_entries AS e ON e.service = latest.service AND "
        "e.number = latest.number",
        f"CREATE VIEW signal AS SELECT e.service, e.number AS entry, {named(_SIGNAL, value)}, "
        f"{number(value, 'version', 'INTEGER')} AS version, {number(value, 'rows', 'INTEGER')} AS rows, "
        f"{json(value, 'recorders')} AS recorders, {when} AS made_at {each('signals')}",
        f"CREATE VIEW event AS SELECT e.service, e.number AS entry, {place} AS place, {text(value, 'level')} AS level, "
        f"{text(value, 'text')} AS text, {json(value, 'data')} AS data, {when} AS made_at {each('events')}",
        f"CREATE VIEW check_result AS SELECT e.service, e.number AS entry, {place} AS place, {named(_CHECK, value)}, "
        f"{number(value, 'value', 'DOUBLE PRECISION')} AS value, {number(value, 'limit', 'DOUBLE PRECISION')} AS "
        f'"limit", {json(value, "data")} AS data, {when} AS made_at {each("checks")}',
        "CREATE VIEW score AS SELECT s.service, s.entry, s.day, s.version, s.instrument, s.score FROM ledger_scores AS s "
        "JOIN ledger_entries AS e ON e.service = s.service AND e.number = s.entry",
        f"CREATE VIEW shadow AS SELECT e.service, e.number AS entry, {named(_SHADOW, value)}, "
        f"{number(value, 'rows', 'INTEGER')} AS rows, {json(value, 'recorders')} AS recorders, {when} AS made_at "
        f"{each('shadows')}",
        f"CREATE VIEW comparison AS SELECT e.service, e.number AS entry, {place} AS place, {text(of_day, 'day')} AS day, "
        f"{named(_COMPARISON, value)}, {number(value, 'days', 'INTEGER')} AS days, "
        f"{number(value, 'candidate_mean', 'DOUBLE PRECISION')} AS candidate_mean, "
        f"{number(value, 'champion_mean', 'DOUBLE PRECISION')} AS champion_mean, {when} AS made_at {each('comparisons')}",
    ]


_SQLITE = {
    "text": "json_extract({0}, '$.{1}')",
    "json": "json_extract({0}, '$.{1}')",
    "body": "{0}",
    "part": "json_extract({0}, '$.{1}')",
    "each": "JOIN json_each(e.body, '$.{0}') AS item",
    "place": "item.key",
    "time": "datetime({0}, 'unixepoch')",
}
_POSTGRES = {
    "text": "({0} ->> '{1}')",
    "json": "({0} ->> '{1}')",
    "body": "CAST({0} AS jsonb)",
    "part": "(CAST({0} AS jsonb) -> '{1}')",
    "each": "CROSS JOIN LATERAL jsonb_array_elements(CAST(e.body AS jsonb) -> '{0}') WITH ORDINALITY AS item (value, nth)",
    "place": "item.nth - 1",
    "time": "to_char(to_timestamp({0}) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')",
}
