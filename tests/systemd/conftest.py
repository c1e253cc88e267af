"""The black-box fixtures (tests/support) for this folder."""

from tests.support.fixtures import *  # noqa: F403
