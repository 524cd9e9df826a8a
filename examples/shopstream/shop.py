"""The shop: who buys what, and what the shop's own books say should come of it."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from botocore.exceptions import BotoCoreError
from orders import Answer, BusyError, Orders
from pymongo.errors import ConnectionFailure
from redis.exceptions import RedisError
from sessions import Sessions
from users import Users
from worker import Worker

T = TypeVar("T")

TASTES = 4
"""Groups of users who buy much the same."""
BUYERS_AT_A_TIME = 8
PATIENCE_S = 300.0
SESSION_S = 3600.0
SHORT_SESSION_S = 5.0


class Shop:
    """Acts as all the shop's customers do, and keeps books.

    Attributes:
        users: Their names, by id.
        products: Their titles, by id.
        stock: What there was of each product at the beginning.
        placed: User and product of each order that was taken, by its id.
        paid: The orders that were paid.
        answers: What buyers were told, and how often.
        carts: User, cart and position of each session, as written last, by its token.
        ended: Tokens of sessions whose time is over soon.
        met: Those of them that were in the cache before.
        touched: When something was last written that a stream reads, as time.time, by the stream's name.
        closed: Set once nobody is to come any more.
    """

    def __init__(self, users: Users, orders: Orders, sessions: Sessions, chance: random.Random) -> None:
        self._users, self._orders, self._sessions = users, orders, sessions
        self._chance = chance
        self._lock = threading.Lock()
        self.users: dict[str, str] = {}
        self.products: dict[str, str] = {}
        self.stock: dict[str, int] = {}
        self.placed: dict[str, tuple[str, str]] = {}
        self.paid: set[str] = set()
        self.answers: Counter[Answer] = Counter()
        self.carts: dict[str, tuple[str, list[str], int]] = {}
        self.ended: set[str] = set()
        self.met: set[str] = set()
        self.touched: dict[str, float] = {}
        self.closed = threading.Event()

    def open(self, users: int, products: int, stock: int) -> None:
        """Register users, and stock up."""
        for number in range(users):
            user = f"usr_{number:04}"
            self.users[user] = f"Viewer {number}"
            # What a product team thinks of next is in some profiles, and in others not.
            more = {"streamingQuality": "1080p"} if number % 3 else {"addressBook": [{"city": "London"}]}
            self._users.register(user, f"{user}@example.com", name=self.users[user], **more)
        self.touched["profiles"] = time.time()
        for number in range(products):
            product = f"prod_{number:03}"
            self.products[product] = f"Product {number}"
            self.stock_up(product, stock)

    def stock_up(self, product: str, count: int) -> None:
        self._orders.stock_up(product, count)
        self.stock[product] = count

    def rush(self, product: str, buyers: int) -> Counter[Answer]:
        """So many want the same at the same moment. Returns what they were told."""
        together = threading.Barrier(buyers)
        names = [*self.users]

        def buyer(number: int) -> Answer:
            together.wait()
            return self._buy(str(uuid.uuid4()), names[number % len(names)], product)

        with ThreadPoolExecutor(buyers) as pool:
            return Counter(pool.map(buyer, range(buyers)))

    def buyers(self, orders_per_s: float) -> list[Worker]:
        """Who takes orders until the shop is closed. Some click twice, and some orders are paid."""

        def buyer(number: int) -> None:
            while not self.closed.wait(BUYERS_AT_A_TIME / orders_per_s):
                with self._lock:
                    order = str(uuid.UUID(int=self._chance.getrandbits(128), version=4))
                    user, product = self._wish()
                answer = self._buy(order, user, product)
                if number == 0:
                    self._buy(order, user, product)
                if number % 3 == 0 and answer is Answer.PLACED:
                    self._pay(order, user)

        return [Worker(f"buyer {number}", partial(buyer, number)) for number in range(BUYERS_AT_A_TIME)]

    def browse(self, changes_per_s: float) -> None:
        """Until the shop is closed users come, and their carts and places in live streams change; some go for good."""
        number = 0
        while not self.closed.wait(1 / changes_per_s):
            with self._lock:
                user, product = self._wish()
            token = f"tok_{user}"
            _, cart, position = self.carts.get(token, (user, [], 0))
            self._note(token, user, [*cart[-4:], product], position + number % 60, SESSION_S)
            if number % 10 == 0:
                self._note(f"short_{number}", user, [product], 0, SHORT_SESSION_S)
            self.met |= {token for token in self.ended - self.met if patiently(partial(self._sessions.get, token))}
            number += 1

    def _pay(self, order: str, user: str) -> None:
        patiently(lambda: self._orders.pay(order, user))
        with self._lock:
            self.paid.add(order)

    def _note(self, token: str, user: str, cart: list[str], position_s: int, lives_s: float) -> None:
        patiently(lambda: self._sessions.put(token, user, cart, position_s, lives_s))
        self.touched["sessions"] = time.time()
        if lives_s == SHORT_SESSION_S:
            self.ended.add(token)
        else:
            self.carts[token] = user, cart, position_s

    def _wish(self) -> tuple[str, str]:
        """Somebody, and something that is mostly to their taste."""
        users, products = [*self.users], [*self.products]
        number = self._chance.randrange(len(users))
        taste = number if self._chance.random() < 0.8 else self._chance.randrange(TASTES)
        of_taste = products[taste % TASTES :: TASTES]
        return users[number], self._chance.choice(of_taste)

    def _buy(self, order: str, user: str, product: str) -> Answer:
        tries = 0

        def ask() -> Answer:
            nonlocal tries
            tries += 1
            return self._orders.buy(order, user, product, 999)

        answer = patiently(ask)
        with self._lock:
            if answer is Answer.DUPLICATE and tries > 1 and order not in self.placed:
                answer = Answer.PLACED  # by the try that was not answered
            if answer is Answer.PLACED:
                self.placed[order] = user, product
                self.touched.setdefault("orders", time.time())
            self.answers[answer] += 1
        return answer


def patiently(action: Callable[[], T]) -> T:
    """Do it, again and again while a server is away. Raises what it raised, once nobody would wait any longer."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except (ConnectionFailure, BotoCoreError, RedisError, BusyError):
            if time.monotonic() > until_s:
                raise
            time.sleep(0.2)
