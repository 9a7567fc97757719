"""Writes the schema of the example application from the migrations for Postgres.

    python scripts/write_schema.py [FILE]

The file may be applied any number of times, before or after `durable migrate`, by several processes
at once. The tests compare it with what this prints.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MIGRATIONS = ROOT / "crates" / "store" / "src" / "postgres" / "migrations"
SCHEMA = ROOT / "examples" / "agents_app" / "db" / "schema.sql"

HEAD = """\
-- The tables of durable-monty on Postgres. Written by scripts/write_schema.py: change nothing here.
--
--     psql -h localhost -U workflow -d workflow -f db/schema.sql
--
-- It may be applied any number of times, before or after `durable migrate` or the application has
-- made the tables: what is there is left as it is.

DO $durable$
DECLARE
    found bigint := 0;
BEGIN
    -- The lock under which `durable migrate` works.
    PERFORM pg_advisory_xact_lock(x'64757261'::bigint);
    IF to_regclass(quote_ident(current_schema()) || '.durable_versions') IS NOT NULL THEN
        EXECUTE 'SELECT coalesce(max(version), 0) FROM durable_versions' INTO found;
    END IF;
"""

STEP = """
    IF found < {version} THEN
        EXECUTE $migration_{version}$
{script}$migration_{version}$;
        EXECUTE 'INSERT INTO durable_versions (version) VALUES ({version})';
    END IF;
"""

TAIL = """\
END
$durable$;
"""


def schema() -> str:
    """The text of the file."""
    scripts = [path.read_text() for path in sorted(MIGRATIONS.glob("*.sql"))]
    steps = [
        STEP.format(version=number, script=script) for number, script in enumerate(scripts, start=1)
    ]
    return "".join([HEAD, *steps, TAIL])


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else SCHEMA
    target.write_text(schema())
    print(f"wrote {target}")
