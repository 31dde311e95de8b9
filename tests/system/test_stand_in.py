"""Where another package stands in for pyserial, as serialx-compat does: it has much less than pyserial."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

STAND_IN = {
    "serial/__init__.py": """
class SerialException(OSError): pass
class SerialTimeoutException(SerialException): pass
class Serial:
    @classmethod
    def from_url(cls, url, *args, **kwargs): return cls()
serial_for_url = Serial.from_url
""",
    "serial/tools/__init__.py": "",
    "serial/tools/list_ports.py": "def comports(include_links=False): return []",
    "serial/tools/list_ports_common.py": "class ListPortInfo: pass",
}

SCRIPT = """
import importlib, pkgutil
import cnxman

for module in pkgutil.walk_packages(cnxman.__path__, "cnxman."):
    if not module.name.endswith("__main__") and not any(
        of_pyserial in module.name for of_pyserial in ("compat", "_urlhandlers")
    ):
        importlib.import_module(module.name)

class Mine(cnxman.Connection):
    def try_connect(self): return True
    def disconnect(self): pass
    def teardown(self): pass

with cnxman.ConnectionManager(Mine()) as manager:
    assert manager.is_connected
try:
    cnxman.SerialConnection("/dev/ttyUSB0")
except ImportError as error:
    print(error)
"""


def test_all_imports_and_only_serial_connections_refuse(tmp_path: Path) -> None:
    for name, text in STAND_IN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a SerialConnection needs pyserial")
