"""Mail as a real mail server receives it: who gets it, what it says, and how it is sent."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from indexer.errors import DeliveryFailed
from indexer.ids import new_id
from indexer.notify import EmailDelivery
from service.alerts.email import Mailer, emails_enabled, sender_of
from service.alerts.texts import TEXTS
from service.search.explain import NOTICE
from tests.house import words
from tests.service.alerts.conftest import Certificates
from tests.service.conftest import make_settings

TEAM = ("one@agency.example", "two@agency.example", "three@agency.example")
NAME = "localhost"


@dataclass
class Mailbox:
    """The handler of a mail server that keeps what it gets and refuses what it is told to."""

    mails: list[tuple[str, list[str], EmailMessage]] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)
    signed_in: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    port: int = 0

    async def handle_MAIL(
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if "sender" in self.refuse:
            return self.refuse["sender"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        mail = message_from_bytes(cast("bytes", envelope.content), policy=default)
        self.mails.append((str(envelope.mail_from), list(envelope.rcpt_tos), mail))
        self.encrypted.append(server.transport.get_extra_info("sslcontext") is not None)
        return self.refuse.get("data", "250 OK")

    def sign_in(
        self, server: Any, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.signed_in.append(data.login.decode())
        return AuthResult(success=data.password == b"the-password", handled=False)


Start = Callable[..., Mailbox]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(
            tls: ssl.SSLContext | None = None, *, inside: bool = False, **options: Any
        ) -> Mailbox:
            box = Mailbox()
            with socket.create_server(("127.0.0.1", 0)) as free:
                box.port = free.getsockname()[1]
            if tls is not None:
                options |= {"ssl_context" if inside else "tls_context": tls}
                options |= {} if inside else {"require_starttls": True}
            controller = Controller(
                box, hostname="127.0.0.1", port=box.port, authenticator=box.sign_in, **options
            )
            controller.start()
            stack.callback(controller.stop)
            return box

        yield begin


def mailer(tmp_path: Path, box: Mailbox, made: Certificates | None = None, **values: Any) -> Mailer:
    given = {
        "smtp_host": NAME,
        "smtp_port": box.port,
        "smtp_security": "none" if made is None else "starttls",
        "smtp_from": "homeward@agency.example",
        **values,
    }
    return Mailer(make_settings(tmp_path, **given), None if made is None else made.client)


def delivery(*waiting: str, alerts: int = 1, addresses: tuple[str, ...] = TEAM) -> EmailDelivery:
    return EmailDelivery(
        alert_id=new_id(), case_id=new_id(), alerts=alerts, addresses=addresses,
        waiting=waiting or addresses,
    )  # fmt: skip


def test_each_address_gets_a_mail_of_its_own(tmp_path: Path, start: Start) -> None:
    box, told = start(), list[str]()
    what = delivery()
    mailer(tmp_path, box, public_url="https://homeward.agency.example/").send(what, told.append)
    assert told == list(TEAM)
    assert [(source, to) for source, to, _ in box.mails] == [
        ("homeward@agency.example", [address]) for address in TEAM
    ]
    for address, (_, _, mail) in zip(TEAM, box.mails, strict=True):
        assert mail["to"] == address and mail["cc"] is None and mail["bcc"] is None
        assert mail["from"] == "Homeward <homeward@agency.example>"
        assert mail["subject"] == TEXTS["mail.subject.one"]
        assert mail["auto-submitted"] == "auto-generated" and mail["date"]
        text = mail.get_content().replace("\r\n", "\n")
        assert f"https://homeward.agency.example/cases/{what.case_id}\n" in text
        assert NOTICE in " ".join(text.split())
        assert words.offences(text) == []
        others = [other for other in TEAM if other != address]
        assert not any(other in mail.as_string() for other in others)
    assert len({mail["message-id"] for _, _, mail in box.mails}) == len(TEAM)


def test_a_mail_that_is_sent_again_has_the_same_id(tmp_path: Path, start: Start) -> None:
    box, what = start(), delivery(TEAM[0], alerts=1200)
    for _ in range(2):
        mailer(tmp_path, box).send(what, lambda _: None)
    (first, again) = (mail for _, _, mail in box.mails)
    assert first["message-id"] == again["message-id"]
    assert first["subject"] == TEXTS["mail.subject.other"].format(n="1,200")
    assert "https://" not in first.get_content()


def test_a_mail_holds_nothing_but_fixed_words_and_the_case_id(tmp_path: Path) -> None:
    """Everything that varies: the number of alerts, the case id, the addresses, time and id."""
    what = delivery()
    made = mailer(tmp_path, Mailbox(port=1), public_url="https://h.example")
    mail = made.message(what, "homeward@agency.example", TEAM[0])
    known = [*TEXTS.values(), NOTICE, what.case_id, "https://h.example/cases/"]
    rest = " ".join(mail.get_content().split())
    for text in (TEXTS["mail.link"].format(address=f"https://h.example/cases/{what.case_id}"),
                 *known):  # fmt: skip
        rest = rest.replace(text, "")
    assert rest.strip() == ""


def test_a_refused_address_keeps_none_from_the_others(tmp_path: Path, start: Start) -> None:
    box, told = start(), list[str]()
    box.refuse = {TEAM[1]: "550 no such mailbox as two@agency.example"}
    with pytest.raises(DeliveryFailed) as caught:
        mailer(tmp_path, box).send(delivery(), told.append)
    assert not caught.value.retry
    assert "address 2 of 3 with 550" in caught.value.detail
    assert "@" not in str(caught.value)
    # It is told never: trying again would only tell the others once more.
    assert told == list(TEAM)
    assert [to for _, to, _ in box.mails] == [[TEAM[0]], [TEAM[2]]]


def test_an_address_that_is_refused_for_now_is_tried_again(tmp_path: Path, start: Start) -> None:
    box, told = start(), list[str]()
    box.refuse = {TEAM[0]: "451 later", TEAM[1]: "550 never"}
    with pytest.raises(DeliveryFailed) as caught:
        mailer(tmp_path, box).send(delivery(), told.append)
    assert caught.value.retry
    assert told == [TEAM[1], TEAM[2]]
    box.refuse = {}
    mailer(tmp_path, box).send(delivery(TEAM[0]), told.append)
    assert sorted(told) == sorted(TEAM)
    assert [to for _, to, _ in box.mails] == [[TEAM[2]], [TEAM[0]]]


@pytest.mark.parametrize(
    ("answer", "retry"),
    [("530 5.7.0 Authentication required", False), ("550 not you", False), ("451 later", True)],
)
def test_a_refused_sender_is_no_refused_address(
    tmp_path: Path, start: Start, answer: str, retry: bool
) -> None:
    box, told = start(), list[str]()
    box.refuse = {"sender": answer}
    with pytest.raises(DeliveryFailed, match=f"refused the sender with {answer[:3]}") as caught:
        mailer(tmp_path, box).send(delivery(), told.append)
    assert caught.value.retry is retry
    assert told == []
    box.refuse = {}
    mailer(tmp_path, box).send(delivery(), told.append)
    assert told == list(TEAM)
    assert [to for _, to, _ in box.mails] == [[address] for address in TEAM]


@pytest.mark.parametrize(
    "answer", ["530 5.7.0 Authentication required", "554 5.7.1 Relay access denied"]
)
def test_an_address_that_is_refused_for_the_sender_is_not_given_up(
    tmp_path: Path, start: Start, answer: str
) -> None:
    box, told = start(), list[str]()
    box.refuse = dict.fromkeys(TEAM, answer)
    with pytest.raises(DeliveryFailed) as caught:
        mailer(tmp_path, box).send(delivery(), told.append)
    assert not caught.value.retry
    assert told == []


def test_a_mail_that_is_refused_as_a_whole(tmp_path: Path, start: Start) -> None:
    for answer, retry in (("452 full", True), ("554 not wanted", False)):
        box, told = start(), list[str]()
        box.refuse = {"data": answer}
        with pytest.raises(DeliveryFailed) as caught:
            mailer(tmp_path, box).send(delivery(TEAM[0]), told.append)
        assert caught.value.retry is retry and told == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_is_encrypted_and_signed_in(
    tmp_path: Path,
    start: Start,
    certificates: Callable[[str], Certificates],
    security: str,
) -> None:
    made = certificates(NAME)
    options = {"auth_require_tls": False} if security == "tls" else {}
    box = start(made.server, inside=security == "tls", **options)
    mailer(
        tmp_path, box, made, smtp_security=security, smtp_user="homeward",
        smtp_password="the-password",
    ).send(delivery(TEAM[0]), lambda _: None)  # fmt: skip
    assert box.encrypted == [True]
    assert box.signed_in == ["homeward"]


def test_a_wrong_password_is_given_up_and_not_told(
    tmp_path: Path, start: Start, certificates: Callable[[str], Certificates]
) -> None:
    made = certificates(NAME)
    box = start(made.server)
    wrong = mailer(tmp_path, box, made, smtp_user="homeward", smtp_password="a-wrong-password")
    with pytest.raises(DeliveryFailed) as caught:
        wrong.send(delivery(TEAM[0]), lambda _: None)
    assert not caught.value.retry and "535" in caught.value.detail
    assert "a-wrong-password" not in str(caught.value)
    assert box.mails == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_certificates_of_mail_servers_are_checked(
    tmp_path: Path,
    start: Start,
    certificates: Callable[[str], Certificates],
    security: str,
) -> None:
    made, other = certificates(NAME), certificates("other.example")
    for server, client in ((other.server, made), (made.server, None)):
        box = start(server, inside=security == "tls")
        sending = mailer(tmp_path, box, client, smtp_security=security)
        with pytest.raises(DeliveryFailed, match="certificate is not trusted") as caught:
            sending.send(delivery(TEAM[0]), lambda _: None)
        assert caught.value.retry and box.mails == []


def test_nothing_is_sent_where_encryption_is_asked_for_and_not_offered(
    tmp_path: Path, start: Start
) -> None:
    box = start()
    with pytest.raises(DeliveryFailed, match="no STARTTLS") as caught:
        mailer(tmp_path, box, smtp_security="starttls").send(delivery(TEAM[0]), lambda _: None)
    assert not caught.value.retry and box.mails == []


def test_a_password_is_never_sent_unencrypted(tmp_path: Path, start: Start) -> None:
    box = start(auth_require_tls=False)
    open_line = mailer(tmp_path, box, smtp_user="homeward", smtp_password="the-password")
    with pytest.raises(DeliveryFailed, match="never sent unencrypted") as caught:
        open_line.send(delivery(TEAM[0]), lambda _: None)
    assert not caught.value.retry
    assert box.signed_in == [] and box.mails == []


def test_a_mail_server_that_is_away_is_tried_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DeliveryFailed, match="could not be reached") as caught:
        mailer(tmp_path, Mailbox(port=port)).send(delivery(TEAM[0]), lambda _: None)
    assert caught.value.retry


def test_settings_say_whether_mail_can_be_sent(tmp_path: Path) -> None:
    def settings(**values: Any) -> Any:
        return make_settings(tmp_path, **values)

    assert not emails_enabled(settings())
    assert not emails_enabled(settings(smtp_from="a@b.example"))
    assert not emails_enabled(settings(smtp_host="mail.example"))
    assert not emails_enabled(settings(smtp_host="mail.example", smtp_from="no address"))
    assert emails_enabled(settings(smtp_host="mail.example", smtp_from="a@b.example"))
    by_account = settings(smtp_host="mail.example", smtp_user="c@d.example")
    assert emails_enabled(by_account) and sender_of(by_account) == "c@d.example"
    with pytest.raises(DeliveryFailed) as caught:
        Mailer(settings()).send(delivery(), lambda _: None)
    assert not caught.value.retry


@pytest.mark.parametrize("address", ["a@b.example\r\nbcc: c@d.example", "a@b.example\nx: y"])
def test_an_address_cannot_start_another_header(tmp_path: Path, address: str) -> None:
    made = mailer(tmp_path, Mailbox(port=1))
    with pytest.raises(ValueError, match=r"CR|LF|[Ii]nvalid"):
        made.message(delivery(), "homeward@agency.example", address)
