"""Fixtures that every test can use."""

from browser import (  # noqa: F401
    browser,
    dist,
    outside_of_playwrights_loop,
    own_server,
    page,
    second_origin,
    server,
)
