# The public names and where they live; read by type checkers, and at run time to import each name on first use.

from .expression import parse as parse
from .operators import (
    register_operator as register_operator,
)
from .tree import Expression as Expression
