"""Replaces Qlib where scripts import it, including in their worker processes: this folder is on their path."""

import sys

from rollforge.compat.qlib import install

install()
sys.modules[__name__] = install.package
