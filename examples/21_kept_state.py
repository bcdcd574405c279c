"""A restartable actor that keeps its state: what a caller has been told survives the process."""

import os

import shoal


@shoal.remote(max_restarts=-1)
class Account:
    def __init__(self) -> None:
        self.balance = 0

    def __shoal_checkpoint__(self) -> int:
        return self.balance

    def __shoal_restore__(self, state: int) -> None:
        self.balance = state

    def pay_in(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    def crash(self) -> None:
        os._exit(1)


account = Account.remote()
assert shoal.get(account.pay_in.remote(70)) == 70
try:
    shoal.get(account.crash.remote())
except shoal.errors.ActorUnavailableError as error:
    print(str(error).splitlines()[0])
assert shoal.get(account.pay_in.remote(30)) == 100
