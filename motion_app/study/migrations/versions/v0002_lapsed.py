"""Which raters lost their place because they never answered."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lapsed",
        sa.Column("rater", sa.String(32), primary_key=True),
        sa.Column("study", sa.String(32), sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("lapsed")
