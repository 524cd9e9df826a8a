"""ShopStream on real servers of this machine: everybody buys at once, everything fails once, and then it is counted.

make shopstream ARGS='--buyers 500 --ahead 3000 --orders-per-s 20 --outage-s 3'. Exits with 1 if anything is missing, or
there twice.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import neo4j
import redis
from board import Board
from books import Books
from fulfilment import Fulfilment
from live import Viewers
from orders import Answer, Orders
from page import Page
from programs import FUNCTIONS, Programs
from recommendations import Recommendations
from rich.console import Console
from servers import Servers
from sessions import Sessions
from shop import SHORT_SESSION_S, Shop
from users import RefusedError, Users
from worker import Worker

from docdb_stream import Settings
from docdb_stream.local.process import wait_until

HERE = Path(__file__).parent
LAST_UNIT = "prod_limited_001"
USERS, PRODUCTS = 200, 20
PATIENCE_S = 300.0


def main() -> int:
    """Start the servers, run it all, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buyers", type=positive, default=500, help="who want the last unit at the same moment")
    parser.add_argument(
        "--ahead", type=positive, default=3_000, help="live events that may be on their way to Cassandra"
    )
    parser.add_argument("--orders-per-s", type=positive, default=20, help="orders that come all the time")
    parser.add_argument("--outage-s", type=positive, default=3, help="how long each database is stopped")
    parser.add_argument("--without-cassandra", action="store_true", help="and so without live events")
    parser.add_argument("--port", type=int, default=0, help="where the page is; 0 is a free port")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same customers")
    arguments = parser.parse_args()
    logging.getLogger("neo4j").setLevel(logging.ERROR)  # that the graph is away is no news here
    try:
        page = Page(arguments.port)
    except OSError as error:
        print(f"error: the page cannot be at port {arguments.port}: {error.strerror}", file=sys.stderr)
        return 2
    try:
        with ExitStack() as stack:
            stack.enter_context(page)
            servers = stack.enter_context(Servers(cassandra=not arguments.without_cassandra))
            return Show(servers, page, stack, arguments).play()
    except KeyboardInterrupt:
        return 130


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("expected a whole number above zero")
    return int(text)


class Show:
    """The example, from the first user to the last count."""

    def __init__(self, servers: Servers, page: Page, stack: ExitStack, arguments: argparse.Namespace) -> None:
        self._servers, self._page, self._stack, self._arguments = servers, page, stack, arguments
        self._console = Console()
        self._chance = random.Random(arguments.seed)
        mongo = stack.enter_context(servers.mongo.client(w="majority"))
        self._database = mongo.shopstream
        driver = neo4j.GraphDatabase.driver(servers.graph.uri, auth=("root", servers.graph.password))
        self._graph = Recommendations(stack.enter_context(driver))
        self._users = Users(self._database)
        self._orders = Orders(servers.aws_client("dynamodb", max_pool_connections=64))
        self._sessions = Sessions(self._database.sessions, stack.enter_context(redis.Redis.from_url(servers.redis.uri)))
        self._shop = Shop(self._users, self._orders, self._sessions, self._chance)
        self._books = Books(self._shop)
        sqs = servers.aws_client("sqs")
        queue, letters = (
            str(sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])
            for name, attributes in (("fulfilment.fifo", {"FifoQueue": "true"}), ("letters", {}))
        )
        self._sqs, self._letters = sqs, letters
        self._fulfilment = Fulfilment(sqs, queue)
        servers.aws_client("secretsmanager").create_secret(Name="shopstream/graph", SecretString=servers.graph.secret)
        environment = {
            **servers.environment(),
            "ORDERS_STREAM_ARN": self._orders.create(),
            "FULFILMENT_QUEUE": queue,
            "LETTERS_QUEUE": letters,
        }
        self._cassandra = self._keyspace()
        self._programs = stack.enter_context(Programs(environment, with_events=self._cassandra is not None))
        streams = [
            each for name in self._programs.pollers for each in Settings.from_config(str(HERE / name), environment)
        ]
        self._board = Board(self._shop, self._programs, self._graph, streams)
        self._workers: list[Worker] = []

    def play(self) -> int:
        """Returns the exit code."""
        arguments = self._arguments
        self._users.create()
        self._sessions.create()
        self._check_rules()
        self._programs.start()
        self._work(
            Worker("fulfilment", self._fulfilment.pack),
            Worker("board", self._board.look),
            Worker("rates", self._board.count),
        )
        self._page.show(self._board.figures)
        self._say(f"the shop is open: look at {self._page.url}")
        # So that the products which are wanted most are sold out on the way, and others are not.
        seconds = 15 + 10 * arguments.outage_s
        self._shop.open(USERS, PRODUCTS, stock=max(10, arguments.orders_per_s * seconds // PRODUCTS))
        self._publish_products()
        self._say(f"{arguments.buyers} want the last unit, now")
        self._rush(arguments.buyers)
        self._trade_through_outages()
        self._say("the shop is closed; what is on its way arrives")
        self._arrive()
        self._board.closed.set()
        last = self._board.figures()
        self._page.show(lambda: last)
        self._count()
        self._console.print(self._books.table())
        return 0 if self._books.are_right else 1

    def _check_rules(self) -> None:
        """What the server takes for a profile, and what not."""
        self._books.check(
            "a profile without an address is refused", True, _refused(lambda: self._users.register("u1", None))
        )
        for user in ("u1", "u2"):
            self._users.register(user, "same@example.com", name=user)
        self._users.verify("u1")
        self._books.check(
            "two share an address; one alone can verify it", True, _refused(lambda: self._users.verify("u2"))
        )
        self._shop.users.update({"u1": "u1", "u2": "u2"})

    def _publish_products(self) -> None:
        self._database.products.insert_many([{"_id": id, "title": title} for id, title in self._shop.products.items()])

    def _rush(self, buyers: int) -> None:
        self._shop.stock_up(LAST_UNIT, 1)
        answers = self._shop.rush(LAST_UNIT, buyers)
        expected = {Answer.PLACED: 1, Answer.OUT_OF_STOCK: buyers - 1}
        self._books.check(
            f"of {buyers} who want the last unit, one gets it", expected, {each: answers[each] for each in expected}
        )

    def _trade_through_outages(self) -> None:
        """Orders, carts and live events, while each database stops, and each program is killed."""
        arguments, shop = self._arguments, self._shop
        work = [*shop.buyers(arguments.orders_per_s), Worker("visitors", lambda: shop.browse(arguments.orders_per_s))]
        if self._cassandra is not None:
            viewers = Viewers(self._database.events, shop, self._events_delivered, arguments.ahead, arguments.seed)
            viewers.create()
            self._board.viewers = viewers
            work.append(Worker("viewers", viewers.watch))
        self._work(*work)
        try:
            self._fail()
        finally:
            shop.closed.set()
        for each in work:
            each.join()

    def _fail(self) -> None:
        """Kill each program, and stop each database."""
        arguments = self._arguments
        time.sleep(2 * arguments.outage_s)
        for name in (*self._programs.pollers, *FUNCTIONS):
            time.sleep(arguments.outage_s / 2)
            self._say(f"{name} is killed, and started again")
            self._programs.restart(name)
        for name, stop in self._servers.outages().items():
            self._say(f"{name} stops for {arguments.outage_s} s")
            with self._down(name):
                stop(arguments.outage_s)
            time.sleep(arguments.outage_s / 2)

    def _arrive(self) -> None:
        """Wait until everything has been delivered, and end the programs."""
        records = len(self._shop.placed) + len(self._shop.paid)
        viewers = self._board.viewers

        def is_all_there() -> bool:
            self._programs.check()
            delivered = [self._programs.progress(name)["records"] for name in FUNCTIONS]
            return min(delivered) >= records and (viewers is None or self._events_delivered() >= viewers.written)

        wait_until(is_all_there, f"{records} records and all live events are delivered", timeout_s=PATIENCE_S)
        self._books.check("pollers that did not end well", {}, self._programs.end())
        self._programs.catch_up()
        self._fulfilment.closed.set()
        self._fulfilment.finish()
        time.sleep(SHORT_SESSION_S)

    def _count(self) -> None:
        self._books.count_orders(self._orders, self._orders.lowest_stock(self._servers.aws_client("dynamodbstreams")))
        self._books.count_fan_out(self._users, self._fulfilment, self._graph)
        self._books.count_sessions(self._sessions)
        if self._cassandra is not None and self._board.viewers is not None:
            self._books.count_events(self._board.viewers, self._database.events, self._cassandra)
            written, rates = self._board.viewers.written, self._board.quiet_rates
            self._say(f"{written:,} live events, {mean(rates):,.0f}/s while all databases were up")
        self._books.count_programs(self._programs, self._letters_left(), self._workers)

    def _letters_left(self) -> int:
        name = "ApproximateNumberOfMessages"
        found = self._sqs.get_queue_attributes(QueueUrl=self._letters, AttributeNames=[name])
        return int(found["Attributes"][name])

    def _work(self, *workers: Worker) -> None:
        self._workers += workers
        for each in workers:
            each.start()

    def _keyspace(self) -> Any:
        """A session of Cassandra's; None without."""
        if self._servers.cassandra is None:
            return None
        from cassandra.cluster import Cluster

        host, _, port = self._servers.cassandra.partition(":")
        session = self._stack.enter_context(Cluster([host], port=int(port), connect_timeout=60)).connect()
        session.default_timeout = 60.0
        session.execute(
            "CREATE KEYSPACE shopstream WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"
        )
        session.set_keyspace("shopstream")
        return session

    def _events_delivered(self) -> int:
        return self._board.delivered.get("events", 0)

    @contextmanager
    def _down(self, name: str) -> Iterator[None]:
        self._board.down.add(name)
        yield
        self._board.down.discard(name)

    def _say(self, text: str) -> None:
        self._console.print(text, style="bold", highlight=False)


def _refused(action: Callable[[], None]) -> bool:
    try:
        action()
    except RefusedError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
