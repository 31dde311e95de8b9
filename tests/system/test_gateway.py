"""The documentation's page "Run a gateway": its exporter, scraped as Prometheus does; its unit, read by systemd."""

import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cnxman.testing import SimulatedDevice
from tests.kit.command import COMMAND
from tests.kit.tcp_ports import free_port

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PATIENCE = 60.0

SYSTEMD_ANALYZE = shutil.which("systemd-analyze")


class Exporter:
    """The example, running."""

    def __init__(self, device: SimulatedDevice) -> None:
        self.port = free_port()
        line = [sys.executable, "-W", "error", str(EXAMPLES / "prometheus_exporter.py"), device.port, str(self.port)]
        self.process = subprocess.Popen(line)

    def scrape(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=PATIENCE) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return {each.name: each.value for family in families for each in family.samples if each.name[:7] == "serial_"}

    def wait(self, wanted: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        until = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < until
            try:
                found = self.scrape()
            except ConnectionRefusedError:
                found = {}
            except urllib.error.URLError:  # it is only just starting
                found = {}
            if wanted(found):
                return found
            time.sleep(0.02)


def test_prometheus_shows_an_outage(serial_device: SimulatedDevice) -> None:
    exporter = Exporter(serial_device)
    try:
        serial_device.wait_opened(PATIENCE)
        serial_device.send(b"12345")
        up = exporter.wait(lambda found: found.get("serial_received_bytes_total") == 5)
        assert (up["serial_up"], up["serial_losses_total"], up["serial_down_seconds_total"]) == (1, 0, 0)
        serial_device.unplug()
        first = exporter.wait(lambda found: found["serial_up"] == 0 and found["serial_losses_total"] == 1)
        exporter.wait(lambda found: found["serial_down_seconds_total"] > first["serial_down_seconds_total"])
        serial_device.plug()
        again = exporter.wait(lambda found: found["serial_up"] == 1)
        assert again["serial_losses_total"] == 1
        assert exporter.scrape()["serial_down_seconds_total"] == again["serial_down_seconds_total"] > 0
    finally:
        exporter.process.kill()
        exporter.process.wait()


@pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="systemd is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (EXAMPLES / "meter.service").read_text()
    assert unit.count("/opt/cnxman/bin/cnxman") == 1
    installed = tmp_path / "meter.service"
    installed.write_text(unit.replace("/opt/cnxman/bin/cnxman", COMMAND))
    done = subprocess.run(
        [str(SYSTEMD_ANALYZE), "verify", "--man=no", str(installed)], capture_output=True, text=True, check=False
    )
    told = [line for line in done.stderr.splitlines() if "meter.service" in line]
    assert (done.returncode, told) == (0, []), done.stderr
    installed.write_text(unit)  # and it is this file that it looks at
    done = subprocess.run(
        [str(SYSTEMD_ANALYZE), "verify", "--man=no", str(installed)], capture_output=True, text=True, check=False
    )
    assert "/opt/cnxman/bin/cnxman" in done.stderr


def test_the_unit_s_command_is_understood() -> None:
    from cnxman.cli import make_parser
    from cnxman.cli.sharing.places import places_of

    unit = (EXAMPLES / "meter.service").read_text().replace("\\\n", "")
    [command] = re.findall(r"^ExecStart=\S+ (.*)$", unit, re.MULTILINE)
    given = make_parser().parse_args(command.split())
    pty, sock = places_of(given.places)
    assert (pty.access.mode, pty.access.group, pty.access.read_only) == (0o660, "dialout", False)
    assert sock.access.read_only
