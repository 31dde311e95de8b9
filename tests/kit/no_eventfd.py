"""`pytest -p tests.kit.no_eventfd`: as on systems other than Linux, there is no `os.eventfd`."""

import os

if hasattr(os, "eventfd"):
    del os.eventfd
