"""Tells by its API key whose request it is: each account has limits and a quota of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from runner.simulator.limits import Limits
from runner.simulator.questions import Refused
from runner.simulator.settings import AccountSettings, SimulatorSettings


class Account:
    """Whoever pays for a request.

    Args:
        settings: its limits, its quota, and what its requests must say.
        now: the time that limits go by, in seconds.
        name: what `/stats` calls it; None for everybody who has no account.

    Attributes:
        limits: the limits of its requests.
    """

    def __init__(
        self, settings: AccountSettings | SimulatorSettings, now: Callable[[], float], name: str | None = None
    ) -> None:
        self.name = name
        self.limits = Limits(settings.requests_per_minute, settings.tokens_per_minute, now)
        self._quota_after = settings.quota_after
        self._promised = 0
        self._disabled = isinstance(settings, AccountSettings) and settings.disabled
        self._organization = settings.organization if isinstance(settings, AccountSettings) else None

    def admit(self, organization: str | None) -> None:
        """Let a request through to its answer.

        Args:
            organization: the header `OpenAI-Organization`.

        Raises:
            Refused: 401, the key is disabled or belongs to another organization.
        """
        if self._disabled:
            raise _incorrect_key()
        if organization and self._organization and organization != self._organization:
            # Status, message and code are those of the API, as quoted in many bug reports.
            message = "OpenAI-Organization header should match organization for API key"
            raise Refused(401, message, code="mismatched_organization")

    def check_quota(self) -> None:
        """See whether there is quota for one more answer.

        Raises:
            Refused: 429 `insufficient_quota`.
        """
        if self._quota_after is not None and self._promised >= self._quota_after:
            raise Refused(
                429,
                "You exceeded your current quota, please check your plan and billing details.",
                kind="insufficient_quota",
                code="insufficient_quota",
            )

    def promise(self) -> None:
        """An answer is on its way, and takes from the quota."""
        self._promised += 1

    def take_back(self) -> None:
        """An answer that was promised could not be delivered."""
        self._promised = max(0, self._promised - 1)

    def reset(self) -> None:
        """Forget the used quota."""
        self._promised = 0


class Accounts:
    """Every account there is.

    Args:
        settings: the accounts, and the keys and limits of everybody else.
        now: the time that limits go by, in seconds.
    """

    def __init__(self, settings: SimulatorSettings, now: Callable[[], float]) -> None:
        uses = Counter(account.organization for account in settings.accounts)
        self._by_key: dict[str, Account] = {}
        for position, account in enumerate(settings.accounts, 1):
            alone = account.organization is not None and uses[account.organization] == 1
            self._by_key[account.key] = Account(account, now, account.organization if alone else f"#{position}")
        self._everybody = Account(settings, now)
        self._keys = frozenset(settings.api_keys)
        self._open = not self._keys and not self._by_key

    @property
    def names(self) -> list[str]:
        """What `/stats` calls the accounts: by their organization where that is theirs alone, else `#1`, `#2`, …"""
        return [account.name for account in self._by_key.values() if account.name is not None]

    def whose(self, authorization: str | None) -> Account:
        """The account that a request belongs to.

        Raises:
            Refused: 401, there is no key, or an unknown one.
        """
        if self._open:
            return self._everybody
        if not authorization:
            raise Refused(401, "You didn't provide an API key.", code="invalid_api_key")
        key = authorization.removeprefix("Bearer ")
        if (account := self._by_key.get(key)) is not None:
            return account
        if key in self._keys:
            return self._everybody
        raise _incorrect_key()

    def reset(self) -> None:
        """Forget the used quotas."""
        for account in (self._everybody, *self._by_key.values()):
            account.reset()


def _incorrect_key() -> Refused:
    # The key itself is not repeated, not even in part.
    return Refused(401, "Incorrect API key provided.", code="invalid_api_key")
