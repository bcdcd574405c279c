"""The accounts of a node: its own, and one of each bundle of each placement group.

1. A bundle's account has exactly what one grant of the node's account gives, for as long as that
   grant is open; the node's account has it pinned.
2. ``strained`` are the accounts of which CPUs are lent, or more are in use than there are: the only
   ones in which something may be too much without anybody saying so.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal._core.resources import CPU, Account, Grant


class Accounts:
    """All of them, and who has borrowed."""

    def __init__(self, node: Account) -> None:
        self.node = node
        self.bundles: dict[Account, Grant] = {}
        """Accounts of bundles, and what each has of the node."""
        self.strained: dict[Account, None] = {}

    # ---- bundles
    def add_bundle(self, grant: Grant) -> Account:
        """A bundle has been granted: its account."""
        account = Account.of_bundle(grant)
        self.bundles[account] = grant
        self.node.pin(grant.amounts)
        return account

    def drop_bundle(self, account: Account) -> None:
        """Nobody holds anything of the bundle any more, and nobody will."""
        assert not account.grants
        grant = self.bundles.pop(account)
        self.node.pin(grant.amounts, -1)
        self.give(grant)

    # ---- grants
    def lend(self, grant: Grant) -> None:
        """Its holder is blocked: others may use its CPUs."""
        if grant.account.lend(grant):
            self._note(grant.account)

    def resume(self, grant: Grant) -> None:
        """It goes on."""
        if grant.account.resume(grant):
            self._note(grant.account)

    def give(self, grant: Grant) -> None:
        """Take it back."""
        grant.account.give(grant)
        self._note(grant.account)

    def has_lenders(self) -> bool:
        """Whether CPUs are lent: their holders may go on at any moment."""
        return any(account.lenders for account in self.strained)

    def _note(self, account: Account) -> None:
        if account.lenders or account.free.get(CPU, 0) < 0:
            self.strained[account] = None
        else:
            self.strained.pop(account, None)

    def validate(self, grants: Iterable[Grant]) -> None:
        """Assert the invariants; ``grants`` is what processes hold."""
        accounts = (self.node, *self.bundles)
        held = [*grants, *self.bundles.values()]
        opened = {grant for account in accounts for grant in account.grants}
        assert set(held) == opened and len(held) == len(opened)
        for account in accounts:
            account.validate()
        for account, grant in self.bundles.items():
            assert grant.account is self.node and account.total == dict(grant.amounts)
        strained = {a for a in accounts if a.lenders or a.free.get(CPU, 0) < 0}
        assert set(self.strained) == strained
