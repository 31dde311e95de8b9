"""The command `cnxman`: what it understands, and who does it.

Each of its commands is a module beside this one, made of nothing but the library's public API.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from cnxman import SerialConnection, __version__
from cnxman.cli import asking, completion, mapping, playing
from cnxman.cli.shapes import DEFAULT_STAMP, STAMPS
from cnxman.cli.sharing import arguments as sharing
from cnxman.cli.stdio import open_the_missing

_EXAMPLES = """\
examples:
  cnxman demo                              see a line that is lost and comes back, without any hardware
  cnxman ports                             which ports there are, and the names that survive renumbering
  cnxman monitor /dev/ttyUSB0 -b 115200    show what the device sends, send what is typed; Ctrl-C quits
  cnxman monitor usb://0403:6001           the same, wherever that adapter is plugged in
  cnxman share usb://0403:6001 --pty /run/meter    one port for many programs, which notice no outage
  cnxman query /dev/ttyUSB0 '*IDN?'        ask once, print the answer
  cnxman simulate --link /tmp/ttyUSB0      play a device, for whoever has none at hand

`cnxman COMMAND --help` says more.
"""

_MONITOR_EXAMPLES = """\
examples:
  cnxman monitor /dev/ttyUSB0 -b 115200            a terminal that outlives every outage
  cnxman monitor usb://0403:6001/A50285BI          wherever that adapter is plugged in (see cnxman ports)
  cnxman monitor /dev/ttyACM0 --hex                offset, bytes, text
  cnxman monitor /dev/ttyACM0 --timestamps --log night.txt
  cnxman monitor /dev/ttyACM0 --timestamps=delta   the seconds since the line before
  cnxman monitor /dev/ttyUSB0 --echo --eol lf      for an instrument that doesn't echo
  cnxman monitor /dev/ttyUSB0 /dev/ttyUSB1         several, only read, each line with its port's name
  cnxman monitor /dev/ttyUSB0 | grep --line-buffered ERROR
  printf 'AT\\r' | cnxman monitor /dev/ttyUSB0      end of input doesn't end it
  cnxman monitor socket://192.168.0.7:4001         any port that pyserial knows

"""

_PORTS_EXAMPLES = """\
examples:
  cnxman ports                     path, the names that survive renumbering, what it is, who holds it
  cnxman ports --watch             go on, and report what is plugged in and pulled out; Ctrl-C ends it
  cnxman ports --json | jq -r '.[] | select(.vid == 1027) | .device'

"""

_MONITOR_KEYS = f"""\
{mapping.HELP}
In a terminal keys go out as they are typed. Ctrl-C quits. After Ctrl-T: ? help, q quit, s statistics, p give the
port away and take it back, b break, d toggle DTR, r toggle RTS, c send Ctrl-C, Ctrl-T send Ctrl-T; and what the
options set: e echo, h hexadecimal, t timestamps, n lines begin at the left, f pause the log. l clears the screen.

Data goes to standard output, byte for byte; what happens, to standard error, a line each. What is typed or piped in
during an outage is held back, up to 1 MiB, and sent when the device is back.

Exit status: 0 when it was ended by Ctrl-C, SIGTERM or a closed pipe; 1 when it failed; 2 for wrong usage.
"""

_EOL = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


class _Parser(argparse.ArgumentParser):
    """A parser whose help begins with examples."""

    def __init__(self, *, examples: str = "", **named: object) -> None:
        super().__init__(**named, formatter_class=argparse.RawDescriptionHelpFormatter)  # type: ignore[arg-type]
        self.examples = examples

    def format_help(self) -> str:
        """The examples, then what argparse makes."""
        return f"{self.examples}\n{super().format_help()}" if self.examples else super().format_help()


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="cnxman",
        description="Keeps a serial line to a device up, through every outage.",
        examples=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"cnxman {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_monitor(
        commands.add_parser(
            "monitor",
            help="show what a device sends, send what is typed",
            description="Shows what the device sends, and sends what is typed or piped in, through every outage.",
            examples=_MONITOR_EXAMPLES,
            epilog=_MONITOR_KEYS,
        )
    )
    _add_share(
        commands.add_parser(
            "share",
            help="one port for many programs",
            description="Keeps a port up and shares it: as a device name that never goes away, and by sockets.",
            examples=sharing.EXAMPLES,
            epilog=sharing.NOTES,
        )
    )
    _add_query(
        commands.add_parser(
            "query",
            help="ask a device once, print the answer",
            description="Sends a text, prints what the device answers, and ends.",
            examples=asking.EXAMPLES,
            epilog=asking.NOTES,
        )
    )
    ports = commands.add_parser(
        "ports",
        help="which ports there are",
        description="Lists the serial ports there are.",
        examples=_PORTS_EXAMPLES,
    )
    ports.set_defaults(run=_run_ports)
    ports.add_argument("--json", action="store_true", help="a JSON array; with --watch, one object a line")
    ports.add_argument("--watch", action="store_true", help="go on, and report arrivals and departures as they happen")
    demo = commands.add_parser("demo", help="a simulated device is pulled out and comes back")
    demo.set_defaults(run=_run_demo)
    simulate = commands.add_parser(
        "simulate",
        help="play a device, without any hardware",
        description="Plays a device on a pseudo-terminal, until Ctrl-C.",
        examples=playing.EXAMPLES,
    )
    simulate.set_defaults(run=_run_simulate)
    playing.add_arguments(simulate)
    shell = commands.add_parser(
        "completion",
        help="complete this command's arguments in a shell",
        description="Prints what a shell has to read to complete this command's arguments.",
        examples=completion.EXAMPLES,
    )
    shell.set_defaults(run=_run_completion)
    completion.add_arguments(shell)
    return parser


def _add_monitor(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_monitor, parser=parser)
    port = parser.add_argument(
        "port",
        metavar="PORT",
        nargs="+",
        help="a device or URL: /dev/ttyUSB0, COM3, usb://VID:PID, socket://...; several are only read",
    )
    completion.offer_ports(port)
    _add_settings(parser.add_argument_group("the line"))
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--hex", action="store_true", help="in hexadecimal: offset, bytes, text")
    shown.add_argument(
        "--timestamps",
        nargs="?",
        const=DEFAULT_STAMP,
        choices=tuple(STAMPS),
        help="begin each line with date (and time; the default), time, delta (seconds since the last line), iso, epoch",
    )
    shown.add_argument(
        "--log", metavar="FILE", help="append what standard output gets to a file, and a line for each outage"
    )
    shown.add_argument("--quiet", action="store_true", help="don't report events")
    shown.add_argument(
        "--onlcr",
        action="store_true",
        help="in a terminal, begin each line at the left, for devices that send LF alone",
    )
    sent = parser.add_argument_group("what is sent")
    sent.add_argument(
        "--eol", choices=_EOL, help="send this for each end of line (else as it is; in a terminal, Enter is CR)"
    )
    sent.add_argument("--echo", action="store_true", help="show what is typed, for devices that don't send it back")
    sent.add_argument(
        "--map",
        type=mapping.flags,
        action="extend",
        default=[],
        metavar="FLAGS",
        help="replace characters on their way: see below",
    )
    sent.add_argument("--discard", action="store_true", help="drop what is typed or piped in during an outage")
    parser.add_argument("--no-wait", action="store_true", help="end with status 1 if the port can't be opened at once")


def _add_share(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_share, parser=parser)
    _add_port(parser)
    sharing.add_arguments(parser)
    _add_settings(parser.add_argument_group("the line"))


def _add_query(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_query, parser=parser)
    _add_port(parser)
    asking.add_arguments(parser)
    _add_settings(parser.add_argument_group("the line"))


def _add_port(parser: argparse.ArgumentParser) -> None:
    completion.offer_ports(
        parser.add_argument(
            "port", metavar="PORT", help="a device or URL: /dev/ttyUSB0, COM3, usb://VID:PID, socket://..."
        )
    )


def _add_settings(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-b", "--baudrate", type=int, default=9600, metavar="RATE", help="bits per second (9600)")
    group.add_argument("--bytesize", type=int, default=8, choices=(5, 6, 7, 8), help="data bits (8)")
    group.add_argument(
        "--parity", type=str.upper, default="N", choices=tuple("NEOMS"), help="none, even, odd, mark, space (N)"
    )
    group.add_argument("--stopbits", type=float, default=1, choices=(1, 1.5, 2), help="stop bits (1)")
    group.add_argument("--rtscts", action="store_true", help="hardware flow control by RTS and CTS")
    group.add_argument("--xonxoff", action="store_true", help="software flow control")
    group.add_argument("--dsrdtr", action="store_true", help="hardware flow control by DSR and DTR")
    for line in ("dtr", "rts"):
        group.add_argument(f"--{line}", choices=("on", "off"), help=f"level of {line.upper()} from the opening on")
    group.add_argument("--no-exclusive", action="store_true", help="let other programs open the port too")
    group.add_argument(
        "--idle-timeout", type=float, metavar="SECONDS", help="take the line for lost when nothing came for so long"
    )
    group.add_argument(
        "--buffer-size",
        type=int,
        default=16 * 2**20,
        metavar="BYTES",
        help="so much waits for a slow reader of standard output; then flow control holds the device off (16 MiB)",
    )


# Each command is imported only when it is called for, so that the others begin sooner.


def _connection(port: str, given: argparse.Namespace, buffer_size: int | None = None) -> SerialConnection:
    return SerialConnection(
        port,
        given.baudrate,
        given.bytesize,
        given.parity,
        given.stopbits,
        xonxoff=given.xonxoff,
        rtscts=given.rtscts,
        dsrdtr=given.dsrdtr,
        write_timeout=None,  # flow control may hold us off for as long as it likes
        exclusive=not given.no_exclusive,
        dtr=_level(given.dtr),
        rts=_level(given.rts),
        idle_timeout=given.idle_timeout,
        buffer_size=given.buffer_size if buffer_size is None else buffer_size,
    )


def _run_share(given: argparse.Namespace) -> int:
    from cnxman.cli import share  # noqa: PLC0415
    from cnxman.cli.sharing.places import LineSettings, places_of  # noqa: PLC0415

    places = places_of(given.places or ())
    if not places:
        given.parser.error("with whom? give --pty LINK or --listen ADDRESS")
    try:
        connection = _connection(given.port, given, buffer_size=0)  # the hub takes everything at once
    except ValueError as error:
        given.parser.error(str(error))
    options = share.Options(
        title=f"{given.port}, {given.baudrate} {given.bytesize}{given.parity}{given.stopbits:g}",
        places=places,
        settings=LineSettings(given.baudrate, int(given.stopbits), given.rtscts, given.xonxoff),
        limit=given.buffer_size,
        quiet=given.quiet,
        discard=given.discard,
        follow=given.follow,
    )
    return share.run(connection, options)


def _run_query(given: argparse.Namespace) -> int:
    from cnxman.cli import query  # noqa: PLC0415

    try:
        connection = _connection(given.port, given)
    except ValueError as error:
        given.parser.error(str(error))
    question, until = asking.question(given.text, given.eol), asking.answers_end(given.until, given.eol)
    return query.run(connection, question, until, given.timeout, echo=given.echo)


def _run_monitor(given: argparse.Namespace) -> int:
    from cnxman.cli import monitor  # noqa: PLC0415
    from cnxman.cli.line import Port  # noqa: PLC0415

    settings = f"{given.baudrate} {given.bytesize}{given.parity}{given.stopbits:g}"
    try:
        watched = [Port(_connection(port, given), port, settings) for port in given.port]
        mapping.mappings(given.map)
        log = _open_log(given.log)
    except (ValueError, OSError) as error:
        given.parser.error(str(error))
    options = monitor.Options(
        quiet=given.quiet,
        hexadecimal=given.hex,
        timestamps=given.timestamps,
        log=log,
        eol=_EOL.get(given.eol),
        mapped=given.map,
        echo=given.echo,
        onlcr=given.onlcr,
        discard=given.discard,
        wait=not given.no_wait,
    )
    return monitor.run(watched, options)


def _level(given: str | None) -> bool | None:
    return None if given is None else given == "on"


def _open_log(path: str | None) -> int | None:
    if path is None:
        return None
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)


def _run_ports(given: argparse.Namespace) -> int:
    from cnxman.cli import portlist  # noqa: PLC0415

    return portlist.run(as_json=given.json, watch=given.watch)


def _run_simulate(given: argparse.Namespace) -> int:
    from cnxman.cli import simulate  # noqa: PLC0415

    return simulate.run(
        simulate.Options(link=given.link, answers=dict(given.answer), every=given.every, quiet=given.quiet)
    )


def _run_completion(given: argparse.Namespace) -> int:
    return completion.run(given.shell)


def _run_demo(_: argparse.Namespace) -> int:
    from cnxman.cli import demo  # noqa: PLC0415

    try:
        return demo.run()
    except KeyboardInterrupt:
        return 0


_BARE = f"--timestamps={DEFAULT_STAMP}"


def _with_forms(arguments: Sequence[str]) -> list[str]:
    """The arguments, with a form for each `--timestamps`: else argparse would take the port behind it for one."""
    if "monitor" not in arguments[:1]:
        return list(arguments)
    found: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*found, word, *words]
        if found and found[-1] == _BARE and word in STAMPS:
            found[-1] = f"--timestamps={word}"
        else:
            found.append(_BARE if len(word) > 2 and "--timestamps".startswith(word) else word)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what stands after the command's name; None takes it from `sys.argv`.

    Returns:
        The exit status. (Wrong usage leaves with status 2, by SystemExit.)
    """
    open_the_missing()
    # The commands say themselves what happens: the log's warnings on standard error would say it twice.
    logging.getLogger("cnxman").addHandler(logging.NullHandler())
    parser = make_parser()
    completion.complete(parser)
    given = parser.parse_args(_with_forms(sys.argv[1:] if arguments is None else arguments))
    status: int = given.run(given)
    return status
