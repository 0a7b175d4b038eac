"""Fixtures that every test can use."""

from adapters import device, devices  # noqa: F401
from browser import (  # noqa: F401
    browser,
    dist,
    outside_of_playwrights_loop,
    own_server,
    page,
    quick_browser,
    second_origin,
    server,
)
