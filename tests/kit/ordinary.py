"""How to run a program as somebody who isn't root, where the tests are run by root.

TIOCEXCL, which a port that is open is given, keeps out all but root: so what works for root proves little.
"""

import os

AS_ORDINARY = ["setpriv", "--bounding-set=-sys_admin"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
"""What comes before the command's words: it takes away the capability that makes the difference, and nothing else."""
