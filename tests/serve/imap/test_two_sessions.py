"""Two sessions on one mailbox (rows I16 and I17): a number never means another message, and nothing is left out."""

from __future__ import annotations

import pytest

from postroad.store.mailbox_reads import Mailboxes
from postroad.store.mailbox_records import Located
from tests.imaptest.runner import Reply
from tests.serve.imap.office import Client, Office


def mail(name: str) -> bytes:
    return b"Subject: %b\r\n\r\nbody of %b\r\n" % (name.encode(), name.encode())


async def three(office: Office) -> tuple[Client, Client]:
    """Two sessions that both know the messages a, b and c."""
    for name in "abc":
        office.deliver(mail(name))
    return await office.login(b"INBOX"), await office.login(b"INBOX")


async def expunge(client: Client, number: int) -> None:
    await client.ask(b"STORE %d +FLAGS.SILENT (\\Deleted)" % number)
    await client.ask(b"EXPUNGE")


def subjects(replies: list[Reply]) -> list[tuple[object, object]]:
    """Number and subject line of each FETCH answer."""
    found: list[tuple[object, object]] = []
    for reply in replies:
        if len(reply.arguments) > 2 and reply.arguments[1] == b"FETCH":
            inner = reply.arguments[2]
            assert isinstance(inner, list)
            text = inner[-1]
            assert isinstance(text, bytes)
            found.append((reply.arguments[0], text.split(b"\r\n")[0]))
    return found


SUBJECT = b"FETCH %b BODY.PEEK[HEADER.FIELDS (SUBJECT)]"


async def test_i16_fetch_by_number_after_another_sessions_expunge(office: Office) -> None:
    one, two = await three(office)
    await expunge(one, 1)
    replies = await two.ask(SUBJECT % b"1:3")
    assert subjects(replies) == [(b"2", b"Subject: b"), (b"3", b"Subject: c")]
    assert replies[-1].arguments[:2] == [b"NO", b"[EXPUNGEISSUED]"]
    assert not any(b"EXPUNGE" in reply.arguments for reply in replies), "never while FETCH is answered"
    assert (await two.ask(b"NOOP"))[0].arguments == [b"1", b"EXPUNGE"]
    assert subjects(await two.ask(SUBJECT % b"1:*")) == [(b"1", b"Subject: b"), (b"2", b"Subject: c")]


async def test_i16_before_any_hint_arrived(office: Office) -> None:
    """The store knows, this worker does not yet: the answer still shows no other message."""
    one, two = await three(office)
    office.desk.watch = None
    await expunge(one, 2)
    replies = await two.ask(SUBJECT % b"2:3")
    assert subjects(replies) == [(b"3", b"Subject: c")]
    assert replies[-1].arguments[:2] == [b"NO", b"[EXPUNGEISSUED]"]


async def test_i16_store_on_an_expunged_message(office: Office) -> None:
    one, two = await three(office)
    await expunge(one, 1)
    assert await two.word(b"STORE 1:2 +FLAGS (\\Flagged)") == b"NO [EXPUNGEISSUED]"
    assert office.house.store.sql("SELECT uid, flags & 4 FROM mailbox_messages ORDER BY uid") == [(2, 4), (3, 0)]
    assert await two.word(b"STORE 1 +FLAGS.SILENT (\\Flagged)") == b"OK"


async def test_i16_copy_and_move_of_an_expunged_message_do_nothing(office: Office) -> None:
    one, two = await three(office)
    await one.ask(b"CREATE box")
    await expunge(one, 1)
    assert await two.word(b"COPY 1:2 box") == b"NO [EXPUNGEISSUED]"
    assert (await two.word(b"COPY 1 box")).startswith(b"OK"), "the expunge has been told, so 1 is another message now"
    await expunge(one, 1)
    assert await two.word(b"UID COPY 2:3 box") == b"OK [COPYUID %d 3 2]" % await uidvalidity(office, "box")


async def uidvalidity(office: Office, name: str) -> int:
    status = await office.mailboxes.status(office.account, name)
    assert status is not None
    return status.uidvalidity


async def test_i16_search_leaves_expunged_messages_out(office: Office) -> None:
    one, two = await three(office)
    await expunge(one, 1)
    assert (await two.ask(b"SEARCH ALL"))[0].arguments == [b"SEARCH", b"2", b"3"]
    assert (await two.ask(b"UID SEARCH ALL"))[0].arguments == [b"SEARCH", b"2", b"3"]


async def test_i16_uid_commands_pass_over_expunged_messages(office: Office) -> None:
    one, two = await three(office)
    await expunge(one, 1)
    replies = await two.ask(b"UID FETCH 1:3 (FLAGS)")
    assert replies[-1].arguments[0] == b"OK"
    assert [reply.arguments[0] for reply in replies if b"FETCH" in reply.arguments] == [b"2", b"3"]


async def test_i17_new_mail_during_uid_fetch_is_told_afterwards_without_a_gap(office: Office) -> None:
    one, two = await three(office)
    await one.ask(b"CREATE box")
    await one.ask(b"SELECT box")
    office.deliver(mail("d"), mailbox="box")
    await one.ask(b"NOOP")
    await one.ask(b"MOVE 1 INBOX")
    replies = await two.ask(b"UID FETCH 3:* (UID)")
    told = [reply.arguments for reply in replies]
    assert [b"3", b"FETCH", [b"UID", b"3"]] in told
    assert [b"4", b"EXISTS"] in told
    assert (await two.ask(b"UID FETCH 4:* (UID)"))[0].arguments == [b"4", b"FETCH", [b"UID", b"4"]]


async def test_flags_of_another_session_are_told_and_not_overwritten(office: Office) -> None:
    one, two = await three(office)
    await one.ask(b"STORE 1 +FLAGS.SILENT (\\Answered)")
    await two.ask(b"STORE 1 +FLAGS.SILENT (\\Flagged $work)")
    replies = await one.ask(b"NOOP")
    fetched = [reply.arguments[2] for reply in replies if b"FETCH" in reply.arguments]
    assert len(fetched) == 1
    [flags] = fetched
    assert isinstance(flags, list)
    assert isinstance(flags[1], list)
    assert {b"\\Answered", b"\\Flagged", b"$work"} <= set(flags[1])
    assert [reply.arguments[0] for reply in replies[:2]] == [b"FLAGS", b"OK"], "the new keyword is announced first"


async def test_a_silent_store_still_tells_what_another_session_changed(office: Office) -> None:
    one, two = await three(office)
    office.desk.watch = None
    await two.ask(b"STORE 1 +FLAGS.SILENT (\\Flagged)")
    replies = await one.ask(b"STORE 1 +FLAGS.SILENT (\\Seen)")
    [flags] = [reply.arguments[2] for reply in replies if b"FETCH" in reply.arguments]
    assert isinstance(flags, list)
    assert set(flags[1]) >= {b"\\Seen", b"\\Flagged"}  # type: ignore[arg-type]
    assert len(await one.ask(b"STORE 1 +FLAGS.SILENT (\\Draft)")) == 1


async def test_recent_is_given_to_one_session(office: Office) -> None:
    one, two = await three(office)
    assert (await one.ask(b"SEARCH RECENT"))[0].arguments == [b"SEARCH", b"1", b"2", b"3"]
    assert (await two.ask(b"SEARCH RECENT"))[0].arguments == [b"SEARCH"]
    office.deliver(mail("d"))
    assert [b"1", b"RECENT"] in [reply.arguments for reply in await two.ask(b"NOOP")]
    assert [b"3", b"RECENT"] in [reply.arguments for reply in await one.ask(b"NOOP")]
    assert (await two.ask(b"SEARCH NEW"))[0].arguments == [b"SEARCH", b"4"]


async def test_examine_takes_no_recent_marks_and_changes_nothing(office: Office) -> None:
    office.deliver(mail("a"))
    client = await office.login()
    replies = await client.ask(b"EXAMINE INBOX")
    assert [b"1", b"RECENT"] in [reply.arguments for reply in replies]
    assert replies[-1].arguments[:2] == [b"OK", b"[READ-ONLY]"]
    await client.ask(b"FETCH 1 BODY[]")
    assert await client.word(b"STORE 1 +FLAGS (\\Seen)") == b"NO [NOPERM]"
    assert await client.word(b"EXPUNGE") == b"NO [NOPERM]"
    assert await client.word(b"MOVE 1 Trash") == b"NO [NOPERM]"
    assert await client.word(b"CLOSE") == b"OK"
    assert office.house.store.sql("SELECT flags FROM mailbox_messages") == [(0,)]
    assert [b"1", b"RECENT"] in [reply.arguments for reply in await client.ask(b"SELECT INBOX")]


async def test_a_view_older_than_the_log_of_removals_is_compared(office: Office) -> None:
    one, two = await three(office)
    await expunge(one, 2)
    store = office.house.store
    store.connection.begin()
    store.connection.execute("DELETE FROM expunged")
    store.connection.execute("UPDATE mailboxes SET log_from = modseq")
    store.connection.commit()
    assert [b"2", b"EXPUNGE"] in [reply.arguments for reply in await two.ask(b"NOOP")]
    assert subjects(await two.ask(SUBJECT % b"1:*")) == [(b"1", b"Subject: a"), (b"2", b"Subject: c")]


async def test_copies_in_slices_appear_together(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        office.deliver(mail(str(number)))
    one, two = await office.login(b"INBOX"), await office.login()
    await one.ask(b"CREATE box")
    await two.ask(b"SELECT box")
    seen: list[int] = []
    real = office.desk.call

    async def watching(unit: object, args: object) -> object:
        result = await real(unit, args)
        if getattr(unit, "__name__", "") == "mailbox_copy_slice":
            status = await office.mailboxes.status(office.account, "box")
            assert status is not None
            seen.append(status.messages)
        return result

    office.desk.call = watching  # type: ignore[method-assign]
    monkeypatch.setattr("postroad.serve.imap_mailbox.SLICE", 2)
    assert (await one.word(b"COPY 1:* box")).startswith(b"OK [COPYUID ")
    assert seen == [0, 0, 5]
    assert [b"5", b"EXISTS"] in [reply.arguments for reply in await two.ask(b"NOOP")]


async def test_i16_a_body_that_another_session_removes_during_a_fetch_is_gone_not_damaged(
    office: Office, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        office.deliver(mail(name) + b"x" * 70_000)
    one, two = await office.login(b"INBOX"), await office.login(b"INBOX")
    locate = office.mailboxes.locate

    async def located_and_then_removed(mailbox: int, uids: list[int], *, body: bool = True) -> list[Located]:
        found = await locate(mailbox, uids, body=body)
        await expunge(one, 2)
        for name in office.house.store.removed:
            office.house.spool.body_path(name).unlink()
        return found

    monkeypatch.setattr(Mailboxes, "locate", lambda _, *args, **how: located_and_then_removed(*args, **how))
    replies = await two.ask(b"FETCH 1:2 BODY.PEEK[TEXT]<0.4>")
    assert [reply.arguments[0] for reply in replies[:-1]] == [b"1"]
    assert replies[-1].arguments[:2] == [b"NO", b"[EXPUNGEISSUED]"]
    assert "error" not in "".join(capfd.readouterr())
