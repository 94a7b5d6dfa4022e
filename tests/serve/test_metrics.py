"""The metrics page: all processes on one page that Prometheus can read, behind a server with strict limits."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from postroad.flow.meters import METERS, Meter, Meters
from postroad.serve import metrics
from postroad.serve.metrics import ALL_METERS, MetricsPage, MetricsServer, forget_meters, meters_file, render, total
from tests.testdata import REPOSITORY


def samples(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name, tuple(sample.labels.items())] = sample.value
    return found


async def test_counts_of_all_processes_are_added_up(tmp_path: Path) -> None:
    for name, count in (("worker-0", 3), ("worker-1", 4)):
        Meters.open(meters_file(tmp_path, name)).counter("postroad_events_total", kind="received").add(count)
    page = samples(await MetricsPage(tmp_path).text())
    assert page["postroad_events_total", (("kind", "received"),)] == 7


async def test_histograms_grow_from_bucket_to_bucket(tmp_path: Path) -> None:
    histogram = Meters.open(meters_file(tmp_path, "worker-0")).histogram("postroad_out_attempt_seconds")
    for seconds in (0.02, 0.2, 0.2, 1000.0):
        histogram.observe(seconds)
    page = samples(await MetricsPage(tmp_path).text())
    name = "postroad_out_attempt_seconds"
    assert page[f"{name}_bucket", (("le", "0.01"),)] == 0
    assert page[f"{name}_bucket", (("le", "0.3"),)] == 3
    assert page[f"{name}_bucket", (("le", "100"),)] == 3
    assert page[f"{name}_bucket", (("le", "+Inf"),)] == page[f"{name}_count", ()] == 4
    assert page[f"{name}_sum", ()] == pytest.approx(1000.42)


async def test_machine_tells_of_disk_version_and_processes(tmp_path: Path) -> None:
    Meters.open(meters_file(tmp_path, "worker-0"))
    page = samples(await MetricsPage(tmp_path).text())
    assert page["postroad_spool_free_bytes", ()] > 0
    assert any(name == "postroad_build_info" for name, _ in page)
    assert page["postroad_process_resident_bytes", (("process", "worker-0"),)] > 1_000_000
    assert page["postroad_process_cpu_seconds_total", (("process", "supervisor"),)] > 0


async def test_process_that_is_gone_has_no_memory_but_its_counts_stay(tmp_path: Path) -> None:
    file = meters_file(tmp_path, "worker-0")
    Meters.open(file).counter("postroad_bugs_total").add()
    raw = bytearray(file.read_bytes())
    raw[8:16] = (2**31 - 1).to_bytes(8, "little")
    file.write_bytes(raw)
    page = samples(await MetricsPage(tmp_path).text())
    assert page["postroad_bugs_total", ()] == 1
    assert ("postroad_process_resident_bytes", (("process", "worker-0"),)) not in page


async def test_figures_that_cost_a_query_are_asked_for_rarely(tmp_path: Path) -> None:
    asked = []

    async def gather() -> dict[str, float]:
        asked.append(1)
        return {'postroad_queue_messages{state="due"}': 5}

    page = MetricsPage(tmp_path, gather)
    await page.text()
    assert samples(await page.text())["postroad_queue_messages", (("state", "due"),)] == 5
    assert len(asked) == 1


async def test_page_comes_even_when_a_query_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def gather() -> dict[str, float]:
        raise OSError("the store is away")

    assert "postroad_build_info" in await MetricsPage(tmp_path, gather).text()
    assert "the store is away" in capfd.readouterr().err


def test_start_of_the_server_counts_from_zero(tmp_path: Path) -> None:
    file = meters_file(tmp_path, "worker-0")
    Meters.open(file).counter("postroad_bugs_total").add()
    forget_meters(tmp_path)
    assert not file.exists()


def test_torn_or_foreign_file_is_no_harm() -> None:
    assert total([b"", b"x" * 3000, b"\0" * 300]) == {}


def test_every_meter_is_documented_and_nothing_else() -> None:
    documented = re.findall(r"^\| `(postroad_\w+)` \|", (REPOSITORY / "docs/metrics.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(meter.name for meter in ALL_METERS)


@pytest.mark.parametrize("meter", ALL_METERS, ids=lambda meter: meter.name)
def test_name_says_the_unit_and_the_kind(meter: Meter) -> None:
    assert meter.name.endswith("_total") is (meter.kind == "counter")
    assert meter.kind != "histogram" or meter.name.endswith("_seconds")
    assert meter.help.endswith(".")


def test_no_meter_is_decoration() -> None:
    """Each is counted somewhere beside the table that declares it."""
    sources = [path for path in (REPOSITORY / "src/postroad").rglob("*.py") if path.name != "meters.py"]
    text = "\n".join(path.read_text() for path in sources)
    unused = [meter.name for meter in METERS if f'"{meter.name}"' not in text]
    assert unused == ["postroad_series_lost_total"]  # counted by the table itself


def test_documented_labels_are_the_real_ones() -> None:
    page = (REPOSITORY / "docs/metrics.md").read_text()
    for meter in ALL_METERS:
        row = next(line for line in page.split("\n") if line.startswith(f"| `{meter.name}` |"))
        assert tuple(re.findall(r"`(\w+)`", row.split("|")[3])) == meter.labels


def test_empty_page_is_valid() -> None:
    assert samples(render({})) == {}


# -- the server ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    sock = socket.create_server(("127.0.0.1", 0))
    server = MetricsServer(MetricsPage(tmp_path), lambda: "")
    await server.start(sock)
    yield sock.getsockname()[1]
    await server.stop()


async def asked(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server closes without an answer."""
    try:
        return await asyncio.wait_for(reader.read(), 2) == b""
    except ConnectionResetError:
        return True


async def test_get_metrics(port: int) -> None:
    head, _, body = (await asked(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"text/plain; version=0.0.4" in head
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
    assert b"postroad_build_info" in body


async def test_request_in_pieces(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for octet in b"GET /healthz HTTP/1.0\r\n\r\n":
        writer.write(bytes([octet]))
        await writer.drain()
    assert (await reader.read()).endswith(b"\r\n\r\nok\n")
    writer.close()


@pytest.mark.parametrize(
    "request_, status",
    [
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /metrics?x=1 HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"EHLO there\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/2\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 9000, b"431"),
    ],
)
async def test_strict_answers(port: int, request_: bytes, status: bytes) -> None:
    assert (await asked(port, request_)).startswith(b"HTTP/1.1 " + status)


async def test_head_has_no_body(port: int) -> None:
    assert (await asked(port, b"HEAD /healthz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")


async def test_unhealthy_is_503_with_the_reason(tmp_path: Path) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    server = MetricsServer(MetricsPage(tmp_path), lambda: "the store is away")
    await server.start(sock)
    answer = await asked(sock.getsockname()[1], b"GET /healthz HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b"the store is away\n")
    await server.stop()


async def test_promise_p11_silent_client_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REQUEST_S", 0.02)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metr")
    assert await ended(reader)
    writer.close()


async def test_too_many_connections_are_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CONNECTIONS_MAX", 1)
    _, first = await asyncio.open_connection("127.0.0.1", port)
    reader, second = await asyncio.open_connection("127.0.0.1", port)
    assert await ended(reader)
    second.close()
    first.close()
    await asyncio.sleep(0.01)
    assert (await asked(port, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")
