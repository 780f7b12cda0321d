"""Alerts by e-mail: that there is something to review, and nothing of whom it is about."""

from __future__ import annotations

import hashlib
import smtplib
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final

from indexer.errors import DeliveryFailed
from indexer.notify import EmailDelivery
from indexer.records import is_email
from indexer.times import rfc3339, utc_now
from indexer.withheld.notices import Notice
from service.alerts.texts import counted, text
from service.config import Settings
from service.search.explain import NOTICE

TIMEOUT_S: Final = 30.0
"""For each step of the conversation with the mail server."""

Told = Callable[[str], None]
"""Called with each address that needs no further mail."""


def emails_enabled(settings: Settings) -> bool:
    """Whether mail can be sent at all: a server and a sender are set."""
    return settings.smtp_host is not None and sender_of(settings) is not None


def sender_of(settings: Settings) -> str | None:
    """The address that mail comes from: the one set, or the account's where that is one."""
    for given in (settings.smtp_from, settings.smtp_user):
        if given and is_email(given):
            return given
    return None


class Mailer:
    """Sends mail through the server that ``settings`` name; ``tls`` is this machine's trust
    unless given."""

    def __init__(self, settings: Settings, tls: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._tls = tls

    def send(self, delivery: EmailDelivery, told: Told) -> None:
        """One mail to each address that waits, each alone, so that none learns of the others.

        ``told`` is called after each that is sent, and for an address that is itself refused for
        good. What the server has against the sender or the mail is put right in the settings, and
        a later try then has to reach everyone: nobody is told by it. Raises
        :class:`DeliveryFailed` where some address could not be told.
        """
        self._send(
            delivery.addresses,
            delivery.waiting,
            lambda sender, address: self.message(delivery, sender, address),
            told,
        )

    def send_notice(self, notice: Notice, addresses: Sequence[str], told: Told) -> None:
        """One mail to each address about a withheld picture; as :meth:`send`."""

        def message(sender: str, address: str) -> EmailMessage:
            late = notice.event == "picture.overdue"
            place = text("mail.no_link")
            if self._settings.public_url:
                base = self._settings.public_url.rstrip("/")
                place = text("mail.withheld_link", address=f"{base}/withheld")
            said = text("mail.overdue" if late else "mail.withheld", id=notice.withheld_id)
            due = text("mail.due", moment=rfc3339(notice.due_at))
            return self._blank(
                sender,
                address,
                text("mail.subject.overdue" if late else "mail.subject.withheld"),
                f"{notice.withheld_id}.{notice.event}",
                f"{said} {due}\n\n{place}\n",
            )

        self._send(addresses, addresses, message, told)

    def _send(
        self,
        addresses: Sequence[str],
        waiting: Sequence[str],
        message: Callable[[str, str], EmailMessage],
        told: Told,
    ) -> None:
        sender = sender_of(self._settings)
        if self._settings.smtp_host is None or sender is None:
            raise DeliveryFailed(
                "No mail server or no sender is set.",
                retry=False,
                remedy="Set HOMEWARD_SMTP_HOST and HOMEWARD_SMTP_FROM.",
            )
        refused: list[str] = []
        later: list[str] = []
        with self._conversation(sender) as server:
            for address in waiting:
                try:
                    server.send_message(message(sender, address), sender, [address])
                except smtplib.SMTPRecipientsRefused as error:
                    code, said = error.recipients[address]
                    (refused if _for_good(code) else later).append(_place(addresses, address, code))
                    if _is_of_address(code, said):
                        told(address)
                except smtplib.SMTPDataError as error:
                    code = int(error.smtp_code)
                    (refused if _for_good(code) else later).append(_place(addresses, address, code))
                else:
                    told(address)
        if refused or later:
            raise DeliveryFailed(
                f"The mail server refused {', '.join(refused + later)}.", retry=bool(later)
            )

    def message(self, delivery: EmailDelivery, sender: str, address: str) -> EmailMessage:
        """The mail for one address; no name, no case number, nothing of an ad."""
        return self._blank(
            sender,
            address,
            counted("mail.subject", delivery.alerts),
            delivery.alert_id,
            self._text(delivery),
        )

    def _blank(
        self, sender: str, address: str, subject: str, message_id: str, content: str
    ) -> EmailMessage:
        domain = sender.rpartition("@")[2]
        digest = hashlib.sha256(address.encode()).hexdigest()[:16]
        message = EmailMessage(policy=SMTP)
        message["From"] = Address("Homeward", addr_spec=sender)
        message["To"] = Address(addr_spec=address)
        message["Subject"] = subject
        message["Date"] = format_datetime(utc_now())
        # The same at every try, so that a mail that arrives twice can be told.
        message["Message-ID"] = f"<{message_id}.{digest}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(content)
        return message

    def _text(self, delivery: EmailDelivery) -> str:
        place = text("mail.no_link")
        if self._settings.public_url:
            base = self._settings.public_url.rstrip("/")
            place = text("mail.link", address=f"{base}/cases/{delivery.case_id}")
        parts = [counted("mail.lead", delivery.alerts), place, NOTICE, text("mail.why")]
        return "\n\n".join(parts) + "\n"

    @contextmanager
    def _conversation(self, sender: str) -> Iterator[smtplib.SMTP]:
        """An open, encrypted and signed-in conversation. Raises :class:`DeliveryFailed`."""
        try:
            with self._connected(sender) as server:
                self._sign_in(server)
                yield server
        except smtplib.SMTPNotSupportedError:
            raise DeliveryFailed(
                "The mail server offers no STARTTLS or no way to sign in.",
                retry=False,
                remedy="Set HOMEWARD_SMTP_SECURITY to what the server offers.",
            ) from None
        except smtplib.SMTPSenderRefused as error:
            code = int(error.smtp_code)
            raise DeliveryFailed(
                f"The mail server refused the sender with {code}.",
                retry=not _for_good(code),
                remedy="Check HOMEWARD_SMTP_FROM, and whether the server wants a user and a "
                "password; then try the job again.",
            ) from None
        except smtplib.SMTPResponseException as error:
            code = int(error.smtp_code)
            raise DeliveryFailed(
                f"The mail server refused the conversation with {code}.", retry=not _for_good(code)
            ) from None
        except ssl.SSLCertVerificationError:
            raise DeliveryFailed(
                "The mail server's certificate is not trusted here or is for another name.",
                retry=True,
            ) from None
        except (OSError, smtplib.SMTPException) as error:
            raise DeliveryFailed(
                f"The mail server could not be reached or broke off ({type(error).__name__}).",
                retry=True,
            ) from None

    def _connected(self, sender: str) -> smtplib.SMTP:
        settings = self._settings
        host, port = settings.smtp_host or "", settings.smtp_port
        # By its domain: the name of this machine is nobody's business.
        own = sender.rpartition("@")[2]
        tls = self._tls or ssl.create_default_context()
        if settings.smtp_security == "tls":
            return smtplib.SMTP_SSL(host, port, local_hostname=own, timeout=TIMEOUT_S, context=tls)
        server = smtplib.SMTP(host, port, local_hostname=own, timeout=TIMEOUT_S)
        try:
            if settings.smtp_security == "starttls":
                server.starttls(context=tls)
        except BaseException:
            server.close()
            raise
        return server

    def _sign_in(self, server: smtplib.SMTP) -> None:
        settings = self._settings
        if not settings.smtp_user or settings.smtp_password is None:
            return
        if settings.smtp_security == "none":
            raise DeliveryFailed(
                "The password for the mail server is never sent unencrypted.",
                retry=False,
                remedy="Set HOMEWARD_SMTP_SECURITY to starttls or tls, or unset the user.",
            )
        server.login(settings.smtp_user, settings.smtp_password.get_secret_value())


def _for_good(code: int) -> bool:
    return 500 <= code < 600


def _is_of_address(code: int, said: bytes) -> bool:
    """Whether a refused address is refused for good and for its own sake.

    Many servers hold what they have against the sender back until the address is named: that
    shows in 530 (RFC 4954) or an enhanced status 5.7.x, security or policy (RFC 3463).
    """
    return _for_good(code) and code != 530 and not said.startswith(b"5.7.")


def _place(addresses: Sequence[str], address: str, code: int) -> str:
    """Which address, without naming it: reasons are read by more people than the case is."""
    return f"address {addresses.index(address) + 1} of {len(addresses)} with {code}"
