# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .append import (
    append_table as append_table,
)
from .demo import (
    make_demo as make_demo,
)
from .filters import (
    BaseDFilter as BaseDFilter,
    ExpressionDFilter as ExpressionDFilter,
    NameDFilter as NameDFilter,
    SeriesDFilter as SeriesDFilter,
)
from .importer import (
    import_table as import_table,
)
from .provider import (
    Provider as Provider,
    open_provider as open_provider,
)
from .universe_import import (
    import_universe as import_universe,
)
