"""The tables, the view of the latest answers and the triggers that keep answers as they were."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

LATEST = """
CREATE VIEW latest_answers AS
SELECT answers.* FROM answers
WHERE NOT EXISTS (
    SELECT 1 FROM answers AS later
    WHERE later.rater = answers.rater AND later.presentation = answers.presentation
      AND later.question = answers.question AND later.revision > answers.revision
)
"""
REFUSAL = "an answer is never changed; add a revision"
SQLITE_TRIGGER = f"""
CREATE TRIGGER answers_stay BEFORE UPDATE ON answers
BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END
"""
POSTGRES_FUNCTION = f"""
CREATE FUNCTION refuse_changed_answer() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$
"""
POSTGRES_TRIGGER = """
CREATE TRIGGER answers_stay BEFORE UPDATE ON answers
FOR EACH ROW EXECUTE FUNCTION refuse_changed_answer()
"""


def upgrade() -> None:
    op.create_table(
        "studies",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("video", sa.Text, nullable=False),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("plan_digest", sa.String(64), nullable=False),
        sa.Column("unblinded", sa.Double),
    )
    op.create_table(
        "items",
        sa.Column("study", sa.String(32), sa.ForeignKey("studies.id"), primary_key=True),
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("caption", sa.Text, nullable=False),
        sa.Column("first_frame", sa.String(64), nullable=False),
        sa.Column("references", sa.Text, nullable=False),
        sa.Column("candidates", sa.Text, nullable=False),
        sa.Column("answer", sa.Text),
    )
    op.create_table(
        "presentations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("study", sa.String(32), sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("item", sa.String(32), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("order", sa.Text, nullable=False),
        sa.Column("repeats", sa.Integer),
        sa.ForeignKeyConstraint(["study", "item"], ["items.study", "items.id"]),
        sa.UniqueConstraint("study", "slot", "number"),
    )
    op.create_table(
        "raters",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("study", sa.String(32), sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("handed_out", sa.Double),
        sa.Column("joined", sa.Double),
        sa.Column("consented", sa.Double),
        sa.Column("finished", sa.Double),
        sa.Column("pid_hash", sa.String(64)),
        sa.Column("study_hash", sa.String(64)),
        sa.Column("session_hash", sa.String(64)),
        sa.UniqueConstraint("study", "slot"),
        sa.UniqueConstraint("study", "pid_hash"),
    )
    _create_answers()
    op.create_table(
        "events",
        sa.Column("serial", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("study", sa.String(32), sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )


def _create_answers() -> None:
    op.create_table(
        "answers",
        sa.Column("serial", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("rater", sa.String(32), sa.ForeignKey("raters.id"), nullable=False),
        sa.Column("presentation", sa.String(32), sa.ForeignKey("presentations.id"), nullable=False),
        sa.Column("question", sa.String(16), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("choice", sa.Integer, nullable=False),
        sa.Column("coverage", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("changes", sa.BigInteger, nullable=False),
        sa.Column("shown_ms", sa.BigInteger, nullable=False),
        sa.Column("client_time", sa.BigInteger, nullable=False),
        sa.Column("server_time", sa.Double, nullable=False),
        sa.UniqueConstraint("rater", "id"),
        sa.UniqueConstraint("rater", "presentation", "question", "revision"),
    )
    op.create_index("ix_answers_rater", "answers", ["rater"])
    op.execute(LATEST)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(POSTGRES_FUNCTION)
        op.execute(POSTGRES_TRIGGER)
    else:
        op.execute(SQLITE_TRIGGER)


def downgrade() -> None:
    op.execute("DROP VIEW latest_answers")
    for table in ("events", "answers", "raters", "presentations", "items", "studies"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_changed_answer")
