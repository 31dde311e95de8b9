"""A serial line's health for Prometheus: python prometheus_exporter.py /dev/ttyUSB0 9877."""

import sys
from collections.abc import Iterator

from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cnxman import ConnectionManager, SerialConnection


class LineCollector:
    def __init__(self, manager: ConnectionManager, connection: SerialConnection) -> None:
        self.manager, self.connection = manager, connection

    def collect(self) -> Iterator[Metric]:
        line, history = self.connection.statistics, self.manager.statistics
        yield GaugeMetricFamily("serial_up", "Whether the line is up.", value=self.manager.is_connected)
        yield CounterMetricFamily("serial_losses", "Outages.", value=history.losses)
        yield CounterMetricFamily("serial_down_seconds", "Time spent down.", value=history.down_seconds)
        yield CounterMetricFamily("serial_received_bytes", "From the device.", value=line.bytes_in)
        yield CounterMetricFamily("serial_sent_bytes", "To the device.", value=line.bytes_out)


connection = SerialConnection(sys.argv[1], 115200)
manager = ConnectionManager(connection)
REGISTRY.register(LineCollector(manager, connection))
server, thread = start_http_server(int(sys.argv[2]), "127.0.0.1")
with manager:
    thread.join()
