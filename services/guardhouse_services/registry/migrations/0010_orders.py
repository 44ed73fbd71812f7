"""What lists go by that other rows say, kept by the database itself; and how often override codes may be asked for.

The servers of the release before know nothing of these columns. Triggers keep them whichever release it is that writes.
"""

import sqlalchemy as sa
from alembic import op

revision = "registry_0010"
down_revision = "registry_0009"
branch_labels = None
depends_on = None

# ruff: noqa: S608  # nothing in these statements comes from outside
_STRINGS = "substr({of}email, 1, 255), substr({of}display_name, 1, 255)"
_KNOWN = "FROM person WHERE organization_id = {of}.organization_id AND user_id = {of}.user_id"
_COUNT = """
    UPDATE device SET active_registrations = active_registrations + CASE NEW.state WHEN 'ACTIVE' THEN 1 ELSE -1 END
    WHERE organization_id = NEW.organization_id AND device_id = NEW.device_id;
"""
_TELL = """
    UPDATE registration
    SET user_email = substr(NEW.email, 1, 255), user_display_name = substr(NEW.display_name, 1, 255)
    WHERE organization_id = NEW.organization_id AND user_id = NEW.user_id;
"""
# A registration begins as an intent, and has a user from when it becomes active.
_BECOMES = "(OLD.state = 'ACTIVE') <> (NEW.state = 'ACTIVE')"
_GETS_USER = "OLD.user_id IS NULL AND NEW.user_id IS NOT NULL"
_HAS_NEWS = "OLD.email <> NEW.email OR OLD.display_name <> NEW.display_name"

_SQLITE = (
    f"CREATE TRIGGER count_active AFTER UPDATE OF state ON registration WHEN {_BECOMES} BEGIN {_COUNT} END",
    f"""
    CREATE TRIGGER name_user AFTER UPDATE OF user_id ON registration WHEN {_GETS_USER} BEGIN
        UPDATE registration SET (user_email, user_display_name) = (
            SELECT {_STRINGS.format(of="")} {_KNOWN.format(of="NEW")}
        )
        WHERE organization_id = NEW.organization_id AND registration_id = NEW.registration_id
        AND EXISTS (SELECT 1 {_KNOWN.format(of="NEW")});
    END
    """,
    f"CREATE TRIGGER tell_new_name AFTER INSERT ON person BEGIN {_TELL} END",
    f"CREATE TRIGGER tell_name AFTER UPDATE ON person WHEN {_HAS_NEWS} BEGIN {_TELL} END",
)
_FUNCTION = "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NEW; END $$"
_NAME = f"""
    SELECT {_STRINGS.format(of="")} INTO NEW.user_email, NEW.user_display_name {_KNOWN.format(of="NEW")};
    NEW.user_email = coalesce(NEW.user_email, '');
    NEW.user_display_name = coalesce(NEW.user_display_name, '');
"""
_POSTGRESQL = (
    *map(_FUNCTION.format, ("count_active", "name_user", "tell_name"), (_COUNT, _NAME, _TELL)),
    f"""
    CREATE TRIGGER count_active AFTER UPDATE OF state ON registration FOR EACH ROW
    WHEN ({_BECOMES}) EXECUTE FUNCTION count_active()
    """,
    f"""
    CREATE TRIGGER name_user BEFORE UPDATE OF user_id ON registration FOR EACH ROW
    WHEN ({_GETS_USER}) EXECUTE FUNCTION name_user()
    """,
    "CREATE TRIGGER tell_new_name AFTER INSERT ON person FOR EACH ROW EXECUTE FUNCTION tell_name()",
    f"CREATE TRIGGER tell_name AFTER UPDATE ON person FOR EACH ROW WHEN ({_HAS_NEWS}) EXECUTE FUNCTION tell_name()",
)
# What was there before.
_COUNT_ALL = """
    UPDATE device SET active_registrations = (
        SELECT count(*) FROM registration WHERE registration.organization_id = device.organization_id
        AND registration.device_id = device.device_id AND state = 'ACTIVE'
    )
"""
_NAME_ALL = f"""
    UPDATE registration SET (user_email, user_display_name) = ({_STRINGS.format(of="person.")})
    FROM person
    WHERE person.organization_id = registration.organization_id AND person.user_id = registration.user_id
"""


def upgrade() -> None:
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    op.add_column("device", sa.Column("active_registrations", sa.Integer, nullable=False, server_default="0"))
    for column in ("user_email", "user_display_name"):
        op.add_column("registration", sa.Column(column, sa.String(255), nullable=False, server_default=""))
    for text in (*(_POSTGRESQL if is_postgresql else _SQLITE), _COUNT_ALL, _NAME_ALL):
        op.execute(sa.text(text))
    _index("device_by_active", "device", ["active_registrations", "device_id"], "create_time IS NOT NULL")
    # SQLite compares text by its bytes, and PostgreSQL when it is told to.
    collation = ' COLLATE "C"' if is_postgresql else ""
    for order, column in (("user_email", "user_email"), ("user_name", "user_display_name")):
        columns: list[str | sa.TextClause] = ["state", sa.text(f"{column}{collation}"), "registration_id"]
        _index(f"registration_by_{order}", "registration", columns, "state IN ('ACTIVE', 'REVOKED')")
    op.create_table(
        "override_rate",
        sa.Column("organization_id", sa.String(40), primary_key=True),
        sa.Column("subject", sa.String(100), primary_key=True),
        sa.Column("full_time", sa.BigInteger, nullable=False),
    )
    op.create_index("override_rate_by_time", "override_rate", ["full_time"])


def _index(name: str, table: str, columns: list[str | sa.TextClause], where: str) -> None:
    clause = sa.text(where)
    op.create_index(name, table, ["organization_id", *columns], sqlite_where=clause, postgresql_where=clause)
