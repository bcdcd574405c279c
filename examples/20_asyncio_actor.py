"""An asyncio actor: its calls overlap on one event loop, so a thousand can wait at once."""

import asyncio

import shoal


@shoal.remote
def fetch(page: int) -> str:
    return f"page {page}"


@shoal.remote(concurrency_groups={"disk": 2})
class Cache:
    def __init__(self) -> None:
        self.pages: dict[int, asyncio.Task[str]] = {}
        self.writers = 0

    async def _load(self, page: int) -> str:
        # A ref can be awaited like anything else; meanwhile the loop serves other calls.
        return await fetch.remote(page)

    async def get(self, page: int) -> str:
        if page not in self.pages:
            self.pages[page] = asyncio.create_task(self._load(page))
        return await self.pages[page]

    @shoal.method(concurrency_group="disk")
    async def save(self, page: int) -> int:
        """At most two at once, and they take no room from the others."""
        self.writers += 1
        await asyncio.sleep(0.01)
        writers, self.writers = self.writers, self.writers - 1
        return writers

    @shoal.method(thread=True)
    def compress(self, text: str) -> int:
        """Would stop the loop; so it runs in a thread."""
        return len(text.encode())


cache = Cache.remote()
texts = shoal.get([cache.get.remote(n % 10) for n in range(200)])
assert texts == [f"page {n % 10}" for n in range(200)]
assert max(shoal.get([cache.save.remote(n) for n in range(10)])) == 2
assert shoal.get(cache.compress.remote("page 1")) == 6
print(len(set(texts)), "pages")
