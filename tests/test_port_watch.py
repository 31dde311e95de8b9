"""`cnxman.ports.watch`, where a list in the test's hand stands for the system's."""

import asyncio
import contextlib
import logging
import os
import queue
import threading

import pytest
from serial.tools.list_ports_common import ListPortInfo

from cnxman import aio, ports
from cnxman._ports import watch as module

BOUND = 60.0


def info(device="/dev/cnxman-test0", **known):
    found = ListPortInfo(device)
    vars(found).update({"vid": 0x0403, "pid": 0x6001, "serial_number": "A1"} | known)
    return found


class Plugged:
    """The ports that are plugged in, and what a watch of them told."""

    def __init__(self, monkeypatch, *found):
        self.found = list(found)
        self.told = queue.Queue()
        self.listings = 0
        self.listed = threading.Condition()
        self.change = lambda: None  # called before each listing
        monkeypatch.setattr(module, "_LOOK_EVERY", 0.005)
        monkeypatch.setattr(module, "_LIST_EVERY", 0.01)
        monkeypatch.setattr(module, "_SETTLED", 0.005)
        monkeypatch.setattr(ports, "available", self.available)

    def available(self):
        self.change()
        with self.listed:
            self.listings += 1
            self.listed.notify_all()
            return list(self.found)

    def set(self, *found):
        with self.listed:
            self.found = list(found)

    def wait_listings(self, count):
        """Wait until it was listed so many times more."""
        with self.listed:
            before = self.listings
            assert self.listed.wait_for(lambda: self.listings >= before + count, BOUND)

    def tell(self, event, port):
        self.told.put((str(event), port))

    def next(self):
        return self.told.get(timeout=BOUND)


@pytest.fixture
def plugged(monkeypatch):
    return Plugged(monkeypatch)


def test_arrivals_and_departures_are_reported_in_order(plugged):
    first, second = info(), info("/dev/cnxman-test1")
    plugged.set(first)
    with ports.watch(plugged.tell) as watch:
        assert watch.at_start == (first,)
        plugged.set(first, second)
        assert plugged.next() == ("arrived", second)
        plugged.set(second)
        assert plugged.next() == ("departed", first)
        assert plugged.told.empty()


def test_another_adapter_of_the_same_name_has_departed_and_arrived(plugged):
    before, after = info(), info(serial_number="B2")
    plugged.set(before)
    with ports.watch(plugged.tell):
        plugged.set(after)
        assert [plugged.next(), plugged.next()] == [("departed", before), ("arrived", after)]


def test_one_that_was_out_between_two_looks_has_departed_and_arrived(plugged, tmp_path):
    node = tmp_path / "tty"
    node.touch()
    plugged.set(info(str(node)))
    with ports.watch(plugged.tell):
        (tmp_path / "new").touch()
        os.replace(tmp_path / "new", node)
        assert [plugged.next()[0], plugged.next()[0]] == ["departed", "arrived"]


def test_an_adapter_is_reported_once_it_has_its_numbers(plugged, monkeypatch):
    half, whole = info(vid=None, pid=None, serial_number=None), info()
    listings = iter([[], [], [half], [whole]])
    monkeypatch.setattr(ports, "available", lambda: next(listings, [whole]))
    with ports.watch(plugged.tell):
        assert plugged.next() == ("arrived", whole)
        assert plugged.told.empty()


def test_what_the_callback_raises_is_logged_and_hurts_nothing(plugged, caplog):
    def fail(event, port):
        plugged.tell(event, port)
        raise ValueError("broken")

    with ports.watch(fail):
        plugged.set(info())
        plugged.next()
        plugged.set()
        assert plugged.next()[0] == "departed"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "/dev/cnxman-test0 has arrived" in errors[0].getMessage()


def test_nothing_is_reported_after_stop(plugged):
    watch = ports.watch(plugged.tell)
    watch.stop()
    watch.stop()
    plugged.set(info())
    assert plugged.told.empty()
    assert not any(thread.name == "cnxman port watch" for thread in threading.enumerate())


def test_the_callback_may_stop_its_own_watch(plugged):
    def stop(event, port):
        watch.stop()
        plugged.tell(event, port)

    watch = ports.watch(stop)
    plugged.set(info(), info("/dev/cnxman-test1"))
    plugged.next()
    watch.stop()
    assert plugged.told.empty()


def test_stop_comes_through_while_the_list_never_settles(plugged):
    numbers = iter(range(10**9))
    with ports.watch(plugged.tell):
        plugged.change = lambda: plugged.set(info(serial_number=str(next(numbers))))
        plugged.wait_listings(6)
    assert plugged.told.empty()


def test_without_a_dev_folder_the_ports_are_listed_now_and_then(plugged, monkeypatch):
    def refuse(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(module.os, "stat", refuse)
    with ports.watch(plugged.tell):
        plugged.wait_listings(4)


def test_a_change_in_dev_is_looked_into_at_once(plugged, monkeypatch):
    monkeypatch.setattr(module, "_LIST_EVERY", 1e6)
    stamps = [1]
    monkeypatch.setattr(module, "_stamp", lambda: stamps[-1])
    with ports.watch(plugged.tell):
        plugged.set(info())
        stamps.append(2)
        assert plugged.next()[0] == "arrived"


def test_what_can_not_be_called_is_refused():
    with pytest.raises(TypeError, match="callback must be callable, not 'print'"):
        ports.watch("print")


def test_asyncio_iterates_over_events_and_ends_the_thread(plugged):
    first, second = info(), info("/dev/cnxman-test1")
    plugged.set(first)

    async def main():
        async with contextlib.aclosing(aio.watch_ports()) as events:
            coming = asyncio.ensure_future(anext(events))
            await asyncio.to_thread(plugged.wait_listings, 3)
            plugged.set(first, second)
            assert await coming == (ports.PortEvent.ARRIVED, second)
            plugged.set(second)
            assert await anext(events) == (ports.PortEvent.DEPARTED, first)
        assert not [thread for thread in threading.enumerate() if "port watch" in thread.name]

    asyncio.run(asyncio.wait_for(main(), BOUND))
