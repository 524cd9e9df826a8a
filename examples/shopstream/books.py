"""The count: what is in each database, beside what the shop's books say."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from fulfilment import Fulfilment
from live import Viewers
from orders import Orders
from programs import FUNCTIONS, TIMES, Programs
from recommendations import Recommendations
from rich.table import Table
from sessions import Sessions
from shop import SESSION_S, Shop
from users import Users
from worker import Worker

ASKED = 20
TTL_S = 90 * 24 * 3600


class Books:
    """Checks, each of which a person can read, and the table of them."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._checks: list[tuple[str, Any, Any]] = []

    def check(self, what: str, expected: Any, found: Any) -> None:
        self._checks.append((what, expected, found))

    @property
    def are_right(self) -> bool:
        return all(expected == found for _, expected, found in self._checks)

    def count_orders(self, orders: Orders, lowest: int | None) -> None:
        """DynamoDB: nothing sold that was not there, nothing paid for that was not sold."""
        placed = Counter(product for _, product in self._shop.placed.values())
        left = {item["productId"]["S"]: int(item["stock"]["N"]) for item in orders.items("Inventory")}
        self.check("stock, at the lowest ever", True, lowest is not None and lowest >= 0)
        expected = {product: count - placed[product] for product, count in self._shop.stock.items()}
        self.check("products: stock is what was there less what was sold", expected, left)
        found = {item["SK"]["S"].removeprefix("ORDER#"): item for item in orders.items("Orders")}
        bought = {order: (item["userId"]["S"], item["productId"]["S"]) for order, item in found.items()}
        self.check("orders", self._shop.placed, bought)
        paid = {order for order, item in found.items() if item["status"]["S"] == "PAID"}
        self.check("orders that are paid", self._shop.paid, paid)
        payments = Counter(item["orderId"]["S"] for item in orders.items("Payments"))
        self.check("one payment for each order", self._once(), payments)

    def count_fan_out(self, users: Users, fulfilment: Fulfilment, graph: Recommendations) -> None:
        """What orders have led to elsewhere."""
        histories: dict[str, list[str]] = defaultdict(list)
        for order, (user, _) in self._shop.placed.items():
            histories[user].append(order)
        found = {user: sorted(orders) for user, orders in users.histories().items()}
        self.check(
            "users: each order once in the history", {user: sorted(each) for user, each in histories.items()}, found
        )
        self.check("one message to fulfilment for each order", self._once(), fulfilment.told)
        self.check("one edge in the graph for each order", self._once(), graph.purchases())
        self.check("users in the graph, with their names", self._shop.users, graph.names())
        self.check("products in the graph, with their titles", self._shop.products, graph.titles())
        wrong = {product for product in self._shop.products if graph.also_bought(product) != self._also_bought(product)}
        self.check("products with other recommendations than the books'", set(), wrong)

    def count_sessions(self, sessions: Sessions) -> None:
        found = {token: sessions.get(token) for token in self._shop.carts}
        carts = {token: (each["user"], each["cart"], each["position_s"]) for token, each in found.items() if each}
        self.check("sessions in the cache, with cart and position", self._shop.carts, carts)
        forever = {token for token in carts if not 0 < sessions.left_s(token) <= SESSION_S}
        self.check("sessions that would not end", set(), forever)
        self.check("sessions whose time is over", set(), {token for token in self._shop.ended if sessions.get(token)})
        self.check("some of these were there before", True, bool(self._shop.met))

    def count_events(self, viewers: Viewers, events: Any, cassandra: Any) -> None:
        """Cassandra: every event by its session and by its user, as it is in the collection, for 90 days."""
        expected = sorted(
            (str(each["_id"].as_uuid()), each["sessionId"], each["userId"], each["type"], each["payload"])
            for each in events.find()
        )
        self.check("live events in the collection", viewers.written, len(expected))
        columns = "event_id, session_id, user_id, event_type, payload"
        for table in ("session_events", "user_events"):
            rows = list(cassandra.execute(f"SELECT {columns}, TTL(event_type) AS ttl FROM {table}"))
            self.check(
                f"rows in {table}, each event once and as it was",
                expected,
                sorted((str(id), *more) for id, *more, _ in rows),
            )
            endless = sum(row.ttl is None or not 0 < row.ttl <= TTL_S for row in rows)
            self.check(f"rows in {table} that do not end within 90 days", 0, endless)
        for column, place, table in ((1, "session", "session_events"), (2, "user", "user_events")):
            wanted = Counter(dict(Counter(event[column] for event in expected).most_common(ASKED)))
            query = f"SELECT count(*) FROM {table} WHERE {place}_id = %s"
            found = Counter({key: cassandra.execute(query, (key,)).one()[0] for key in wanted})
            self.check(f"events of some {place}s, asked for one by one", wanted, found)

    def count_programs(self, programs: Programs, letters: int, workers: list[Worker]) -> None:
        """That everything was done that all this stands on."""
        records = len(self._shop.placed) + len(self._shop.paid)
        for name in FUNCTIONS:
            self.check(
                f"deliveries to {name}: each record {TIMES} times",
                TIMES * records,
                programs.progress(name)["deliveries"],
            )
        self.check("dead letters", 0, letters)
        self.check(
            "who works in the shop, and could not go on",
            {},
            {each.name: str(each.error) for each in workers if each.error},
        )
        shop = self._shop
        self.check(
            "of everything there was something", True, all(map(len, (shop.placed, shop.paid, shop.carts, shop.ended)))
        )

    def table(self) -> Table:
        table = Table("what", "expected", "found", "", title="ShopStream")
        for what, expected, found in self._checks:
            mark = "[green]✓[/]" if expected == found else "[red]✗[/]"
            table.add_row(what, _short(expected), _short(found), mark)
        return table

    def _once(self) -> Counter[str]:
        """Every order, once."""
        return Counter(dict.fromkeys(self._shop.placed, 1))

    def _also_bought(self, product: str, limit: int = 5) -> list[tuple[str, int]]:
        bought: dict[str, set[str]] = defaultdict(set)
        for user, each in self._shop.placed.values():
            bought[user].add(each)
        counts = Counter(
            other for products in bought.values() if product in products for other in products if other != product
        )
        return sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:limit]


def _short(value: Any) -> str:
    if isinstance(value, Counter):
        return str(sum(value.values()))
    return str(value) if isinstance(value, str) or not hasattr(value, "__len__") else str(len(value))
