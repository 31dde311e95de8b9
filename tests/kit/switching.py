"""A plugin for pytest (`-p tests.kit.switching`): threads take turns every few steps, and so meet in odd places."""

import sys

sys.setswitchinterval(1e-6)
