"""Domains, accounts, aliases and credentials as they travel to the store and back: arguments and results of units.

Every unit here answers with one word of `WORDS`; the command line and the API print the text that stands beside it.
"""

from __future__ import annotations

from typing import Final

from postroad.store.records import Record

DONE: Final = "done"
NOT_A_DOMAIN: Final = "not a domain"
NOT_AN_ADDRESS: Final = "not an address"
DOMAIN_EXISTS: Final = "domain exists"
NO_DOMAIN: Final = "no such domain"
DOMAIN_IN_USE: Final = "domain in use"
ADDRESS_IN_USE: Final = "address in use"
NO_ACCOUNT: Final = "no such account"
NO_ALIAS: Final = "no such alias"
NO_TARGET: Final = "no such target"
TOO_MANY: Final = "too many"
NOT_A_QUOTA: Final = "not a quota"
NOT_A_LABEL: Final = "not a label"
NOT_A_SCOPE: Final = "not a scope"
NOT_A_NETWORK: Final = "not a network"
NOT_A_SENDER: Final = "not a sender"
LABEL_IN_USE: Final = "label in use"
NO_APP_PASSWORD: Final = "no such app password"
NO_GRANT: Final = "no such grant"
NOT_A_LIMIT: Final = "not a limit"
NOT_A_HOP: Final = "not a next hop"
NOT_A_CHECK: Final = "not a check"
OTHER_DOMAIN: Final = "other domain"
TOO_MANY_AT_ONCE: Final = "too many at once"
NO_KEY: Final = "no such key"
NO_KEY_WAITS: Final = "no key waits"
KEY_IN_USE: Final = "key in use"
KEY_UNUSABLE: Final = "key unusable"
NOT_A_SELECTOR: Final = "not a selector"
SELECTOR_IN_USE: Final = "selector in use"
TOO_MANY_KEYS: Final = "too many keys"

WORDS: Final = {
    DONE: "It is done.",
    NOT_A_DOMAIN: "That is not a domain name.",
    NOT_AN_ADDRESS: "That is not a mail address.",
    DOMAIN_EXISTS: "That domain is already served here.",
    NO_DOMAIN: "That domain is not served here; add it first.",
    DOMAIN_IN_USE: "The domain still has accounts or aliases; remove them, or force it and lose their mail.",
    ADDRESS_IN_USE: "That address already is an account or an alias.",
    NO_ACCOUNT: "There is no such account.",
    NO_ALIAS: "There is no such alias.",
    NO_TARGET: "The alias does not lead to that address.",
    TOO_MANY: "One address cannot have so many of them.",
    NOT_A_QUOTA: "A quota is a number of octets, or 0 for none.",
    NOT_A_LABEL: "A label has up to 32 lower-case letters, digits, dots and hyphens.",
    NOT_A_SCOPE: "An app password is for smtp, imap, pop3 or some of them.",
    NOT_A_NETWORK: "That is not a network, or there are too many of them.",
    NOT_A_SENDER: "That is neither a mail address nor a domain with an @ before it.",
    LABEL_IN_USE: "The account already has an app password of this label.",
    NO_APP_PASSWORD: "The account has no app password of this label.",
    NO_GRANT: "The account has no such grant.",
    NOT_A_LIMIT: "A limit is a whole number up to 1,000,000,000, or 0 for none.",
    NOT_A_HOP: 'That is no host. Write "mail.example.org:25", "lmtp:host:port" or "lmtp:/run/lmtp.sock".',
    NOT_A_CHECK: "Recipients are checked by callout, by list, or all are taken; in doubt: known, accept or defer.",
    OTHER_DOMAIN: "One of these addresses belongs to another domain.",
    TOO_MANY_AT_ONCE: "That is more than one call may change.",
    NO_KEY: "The domain has no DKIM key with that selector.",
    NO_KEY_WAITS: "The domain has no published DKIM key that could begin to sign.",
    KEY_IN_USE: "That DKIM key is not retired; retire it first.",
    KEY_UNUSABLE: "That is no private key that DKIM can sign with.",
    NOT_A_SELECTOR: "A selector is made of letters, digits and hyphens, like a host name.",
    SELECTOR_IN_USE: "The domain has a DKIM key with that selector.",
    TOO_MANY_KEYS: "The domain has too many DKIM keys; remove retired ones.",
}
"""Every word a unit of this module may answer, with the sentence people see."""

ALIAS_TARGETS_MAX: Final = 500
"""Targets of one alias: what one unit may touch. Longer lists are lists of lists."""

ENABLED: Final = 0
DISABLED: Final = 1
"""No login, and no mail is taken; everything stays."""
REMOVED: Final = 2
"""The address is free again, what the account held is being erased in slices."""


class Changed(Record, frozen=True):
    """What a unit answers: a word of `WORDS`, and the id of what it made or changed."""

    word: str
    id: int = 0

    @property
    def done(self) -> bool:
        """Whether the change was made."""
        return self.word == DONE


class Credential(Record, frozen=True):
    """What proves a password, never the password itself: an argon2id hash and a SCRAM-SHA-256 verifier of it.

    Both come from one call of `serve.passwords.hash_password` and are stored by one unit, so they cannot disagree.
    """

    argon2: str
    """PHC text: $argon2id$v=19$m=19456,t=2,p=1$salt$hash."""
    scram_salt: bytes
    scram_iterations: int
    # RFC 5802 section 3: StoredKey := H(ClientKey), ServerKey := HMAC(SaltedPassword, "Server Key")
    scram_stored_key: bytes
    scram_server_key: bytes

    def __repr__(self) -> str:
        return "Credential(...)"


# -- domains ---------------------------------------------------------------------------------------------------------


class DomainAdd(Record, frozen=True):
    """Serve a domain. `postmaster` takes what is sent to postmaster@ and abuse@; empty: the domain's first account."""

    name: str
    postmaster: str = ""


class DomainRemove(Record, frozen=True):
    """Stop serving a domain; with accounts or aliases only when forced, and then their mail is erased."""

    name: str
    force: bool = False


class DomainRemoved(Record, frozen=True):
    """What stood in the way or, when the word is "done", what went with the domain."""

    word: str
    accounts: int = 0
    aliases: int = 0
    pointing: int = 0
    """Aliases of other domains that lead to addresses of this one; they stay, and refuse."""
    more: bool = False
    """The domain stands until the unit is called again: it had too many accounts for one call."""


class CatchAll(Record, frozen=True):
    """Where mail to unknown addresses of a domain goes; empty: it is refused."""

    domain: str
    target: str


class Postmaster(Record, frozen=True):
    """Who gets mail to postmaster@ and abuse@ of a domain; empty: its first account."""

    domain: str
    target: str


class DomainGateway(Record, frozen=True):
    """Pass a domain's mail to a host; an empty `next_hop` ends it."""

    domain: str
    next_hop: str = ""
    """A text of `values.next_hop`."""
    check: str = "callout"
    """A word of `gateways.CHECKS`."""
    in_doubt: str = "known"
    """A word of `gateways.IN_DOUBT`."""


class GatewayRecipients(Record, frozen=True):
    """Recipients of a gateway domain to add to its list or to take from it, at most `ROWS_PER_UNIT`."""

    domain: str
    addresses: list[str]


class GatewayKnown(Record, frozen=True):
    """What a gateway domain's host has said about recipients, by the keys of their addresses."""

    domain: str
    next_hop: str
    taken: list[str]
    refused: list[str]


# -- accounts --------------------------------------------------------------------------------------------------------


class UserAdd(Record, frozen=True):
    """Make an account with its six mailboxes, and its password when one is given."""

    address: str
    quota_bytes: int = 0
    """Octets all its messages together may have; 0: no limit."""
    credential: Credential | None = None


class UserRemove(Record, frozen=True):
    """Free an address at once; what the account held is erased afterwards by `sweep_mailboxes`."""

    address: str


class UserQuota(Record, frozen=True):
    """Set what an account may hold; below what it holds, it keeps everything and takes nothing more."""

    address: str
    quota_bytes: int


class UserLimits(Record, frozen=True):
    """Set some of the limits of what an account may send, by the names of `Allowed`.

    0 is no limit, None goes back to what the configuration says.
    """

    address: str
    limits: dict[str, int | None]


class UserDisable(Record, frozen=True):
    """Stop an account from logging in and from taking mail, or let it again."""

    address: str
    disabled: bool = True


class SetPassword(Record, frozen=True):
    """Replace an account's credential."""

    address: str
    credential: Credential


# -- aliases ---------------------------------------------------------------------------------------------------------


class AliasAdd(Record, frozen=True):
    """Lead an address of ours to others, anywhere; targets it already has stay."""

    address: str
    targets: list[str]


class AliasRemove(Record, frozen=True):
    """Take targets from an alias, all of them when the list is empty; an alias without targets is gone."""

    address: str
    targets: list[str] = []


# -- what reads return -----------------------------------------------------------------------------------------------


class Domain(Record, frozen=True):
    """One served domain."""

    id: int
    name: str
    """A-labels, lower case."""
    postmaster: str
    catch_all: str
    created_us: int
    next_hop: str = ""
    """Where its mail is passed to; empty: it lives here."""
    check: str = ""
    in_doubt: str = ""


class Account(Record, frozen=True):
    """One account, without anything secret."""

    id: int
    address: str
    """As it was written when the account was made."""
    key: str
    quota_bytes: int
    """0: no limit."""
    used_bytes: int
    messages: int
    disabled: bool
    created_us: int

    @property
    def account(self) -> int:
        """Its id, under the name that copies, mailboxes and `Local` have for it."""
        return self.id

    def has_room(self, size: int) -> bool:
        """Whether a message of so many octets fits into the quota."""
        return self.quota_bytes == 0 or self.used_bytes + size <= self.quota_bytes


class AliasEntry(Record, frozen=True):
    """One alias with its targets, in the order they are listed."""

    key: str
    targets: list[str]


class Local(Record, frozen=True):
    """A recipient that is an account here."""

    account: int
    address: str
    key: str
    quota_bytes: int
    used_bytes: int
    disabled: bool
    tag: str = ""
    """What followed the delimiter in user+tag@."""
    unfailing: bool = False
    """Mail to postmaster@ or abuse@: it is never refused (RFC 5321 section 4.5.1)."""

    def has_room(self, size: int) -> bool:
        """Whether a message of so many octets fits into the quota."""
        return self.quota_bytes == 0 or self.used_bytes + size <= self.quota_bytes


class Alias(Record, frozen=True):
    """A recipient that leads to others: an alias, a catch-all, or the postmaster of a domain."""

    key: str
    targets: list[str]
    why: str = "alias"
    """"alias", "catch-all", "postmaster" or "abuse": the word in the journal."""
    unfailing: bool = False


class Gateway(Record, frozen=True):
    """A recipient whose domain is passed to another host, and who is no account or alias here."""

    address: str
    """As it is written there."""
    key: str
    domain: str
    next_hop: str
    check: str
    """A word of `gateways.CHECKS`."""
    in_doubt: str
    """A word of `gateways.IN_DOUBT`."""
    listed: bool = False
    """It stands in the domain's list; only looked up where that decides."""
    unfailing: bool = False


class Unknown(Record, frozen=True):
    """An address of a domain of ours that leads nowhere."""

    address: str


class NotOurs(Record, frozen=True):
    """An address of a domain that is not served here."""

    domain: str


class Empty(Record, frozen=True):
    """A required address (postmaster@, abuse@) for which nobody is there yet: not one account exists here."""

    address: str


Resolved = Local | Alias | Gateway | Unknown | NotOurs | Empty
"""What an address of an envelope means here."""
