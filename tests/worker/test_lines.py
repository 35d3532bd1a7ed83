"""The log's lines about each job: quickly made, and the same as logging makes them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from trio_queue._worker.lines import Line

#: Of a record: what is different for each one.
OF_A_MOMENT = {"created", "msecs", "relativeCreated"}


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.lines")
    logger.setLevel(logging.INFO)
    yield logger
    logger.handlers.clear()
    logger.disabled = False


@pytest.fixture
def kept(logger: logging.Logger) -> Kept:
    kept = Kept()
    logger.addHandler(kept)
    return kept


@pytest.fixture
def line(logger: logging.Logger) -> Line:
    return Line(logger, logging.INFO, "job %s began")


def test_every_record_is_what_logging_would_make(
    logger: logging.Logger, kept: Kept, line: Line
) -> None:
    def both(number: int) -> None:
        line.write(number, extra={"job": number})
        logger.info("job %s began", number, extra={"job": number})

    for number in range(3):
        both(number)
    for quick, made in zip(kept.records[::2], kept.records[1::2], strict=True):
        assert quick.getMessage() == made.getMessage()
        assert quick.lineno == made.lineno - 1
        alike = OF_A_MOMENT | {"lineno"}
        assert {k: v for k, v in vars(quick).items() if k not in alike} == {
            k: v for k, v in vars(made).items() if k not in alike
        }
        assert made.relativeCreated - quick.relativeCreated == pytest.approx(
            (made.created - quick.created) * 1000, abs=1
        )
        assert quick.msecs == pytest.approx(quick.created % 1 * 1000, abs=2)


def test_what_another_thread_writes_has_its_name(kept: Kept, line: Line) -> None:
    line.write(1, extra={})
    thread = threading.Thread(target=lambda: line.write(2, extra={}), name="another")
    thread.start()
    thread.join()
    assert [record.threadName for record in kept.records] == ["MainThread", "another"]


def test_whoever_makes_records_of_his_own_makes_these_too(kept: Kept, line: Line) -> None:
    class Record(logging.LogRecord):
        pass

    line.write(1, extra={})
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(Record)
    try:
        line.write(2, extra={})
    finally:
        logging.setLogRecordFactory(before)
    assert [type(record) for record in kept.records] == [logging.LogRecord, Record]


def test_filters_and_a_disabled_logger_count(
    logger: logging.Logger, kept: Kept, line: Line
) -> None:
    line.write(1, extra={})
    logger.addFilter(is_no_second := lambda record: record.args != (2,))
    line.write(2, extra={})
    line.write(3, extra={})
    logger.removeFilter(is_no_second)
    logger.disabled = True
    line.write(4, extra={})
    assert not line.is_enabled
    assert [record.args for record in kept.records] == [(1,), (3,)]
