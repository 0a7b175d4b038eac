"""Fixtures that every test can use."""

import signal

from adapters import device, devices, llvmpipe  # noqa: F401
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
from desk import desk, loaded_desk  # noqa: F401

# A shell that started this in the background left SIGINT ignored, which the programs that tests
# interrupt would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
