"""Many streams side by side: what each gives, who is told when, and what ends them; by pollers that are scripted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from docdb_stream import streams as streams_module
from docdb_stream.context import Deadline, current_deadline
from docdb_stream.errors import DocdbStreamError, HistoryLostError, SourceUnavailableError, TargetError
from docdb_stream.follower import Patience
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.streams import MAX_STREAMS_AT_ONCE, Outcome, exit_code, run_streams

LONG_S = 60
Run = Callable[[Deadline], RunResult]


def settings(name: str, uri: str = "mongodb://127.0.0.1:1") -> Settings:
    return Settings(documentdb_uri=uri, watched_db_name="shop", stream_name=name)


def ends(name: str) -> Run:
    return lambda limit: RunResult(name, events=1)


def fails(error: Exception) -> Run:
    def run(limit: Deadline) -> RunResult:
        raise error

    return run


def until_stopped(name: str) -> Run:
    def run(limit: Deadline) -> RunResult:
        assert limit.stop.wait(LONG_S)
        return RunResult(name, stopped_by="signal")

    return run


class Pollers:
    """In the place of ``Poller``: each stream's runs are scripted by its name."""

    def __init__(self, **runs: Run) -> None:
        self.runs = runs
        self.made: list[tuple[str, Sequence[Any] | None, object]] = []
        self.asked: list[dict[str, Any]] = []
        self.limits: list[Deadline] = []
        self.closed = 0
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def from_settings(self, settings: Settings, targets: Sequence[Any] | None, connection: object) -> Any:
        self.made.append((settings.stream_name, targets, connection))
        return _Poller(self, settings.stream_name)

    def count(self, by: int) -> None:
        with self._lock:
            self.at_once += by
            self.most_at_once = max(self.most_at_once, self.at_once)


class _Poller:
    def __init__(self, pollers: Pollers, name: str) -> None:
        self.pollers, self.name = pollers, name

    def __enter__(self) -> _Poller:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.pollers.closed += 1

    def run(self, *, limit: Deadline, follow: bool, progress: Callable[[RunResult], None]) -> RunResult:
        assert current_deadline() is limit
        self.pollers.limits.append(limit)
        self.pollers.asked.append({"follow": follow})
        progress(RunResult(self.name, began_at="checkpoint"))
        self.pollers.count(1)
        try:
            return self.pollers.runs[self.name](limit)
        finally:
            self.pollers.count(-1)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pollers]:
    def make(**runs: Run) -> Pollers:
        pollers = Pollers(**runs)
        monkeypatch.setattr(streams_module, "Poller", pollers)
        return pollers

    return make


class Watcher:
    def __init__(self, told: list[Any], name: str) -> None:
        self.told, self.name = told, name

    def progress(self, result: RunResult) -> None:
        self.told.append((self.name, "progress"))

    def waiting(self, error: DocdbStreamError, for_s: float) -> None:
        self.told.append((self.name, "waiting"))

    def goes_on(self, after_s: float) -> None:
        self.told.append((self.name, "goes on"))


def test_what_became_of_each_is_in_its_place(scripted: Callable[..., Pollers]) -> None:
    pollers = scripted(a=ends("a"), b=fails(TargetError("kafka", "no broker")), c=fails(KeyError("x")), d=ends("d"))
    outcomes = run_streams([settings(name) for name in "abcd"])
    assert [outcome.settings.stream_name for outcome in outcomes] == ["a", "b", "c", "d"]
    assert [outcome.exit_code for outcome in outcomes] == [0, 4, 1, 0]
    assert (exit_code(outcomes), exit_code(outcomes[:1]), exit_code([])) == (4, 0, 0)
    assert outcomes[0].result is not None
    assert outcomes[0].result.events == 1
    assert (outcomes[1].result, outcomes[1].error.kind) == (None, "target")
    assert "unexpected KeyError" in str(outcomes[2].error)
    assert "bug" in outcomes[2].error.hint
    assert pollers.closed == 4


def test_an_outcome_is_ready_for_json() -> None:
    well = Outcome(settings("a"), RunResult("a", events=3))
    ill = Outcome(settings("b"), error=SourceUnavailableError("away", hint="look"))
    assert json.loads(json.dumps(well.as_dict()))["events"] == 3
    assert ill.as_dict() == {
        "stream": "b",
        "error": {"kind": "source", "message": "away", "hint": "look", "exit_code": 3},
    }


def test_no_stream_at_all_is_no_work() -> None:
    assert run_streams([]) == []


def test_streams_of_one_cluster_share_a_connection(scripted: Callable[..., Pollers]) -> None:
    pollers = scripted(a=ends("a"), b=ends("b"), c=ends("c"))
    elsewhere = settings("c", "mongodb://127.0.0.1:2")
    run_streams([settings("a"), settings("b"), elsewhere])
    by_name = {name: connection for name, _, connection in pollers.made}
    assert by_name["a"] is by_name["b"]
    assert by_name["a"] is not by_name["c"]


def test_targets_of_the_callers(scripted: Callable[..., Pollers]) -> None:
    pollers = scripted(a=ends("a"))
    mine = [object()]
    run_streams([settings("a")], targets=lambda found: mine if found.stream_name == "a" else [])
    assert pollers.made[0][1] is mine
    scripted(a=ends("a"))
    pollers = scripted(a=ends("a"))
    run_streams([settings("a")])
    assert pollers.made[0][1] is None


def test_those_that_end_run_some_at_a_time_and_those_that_follow_all(scripted: Callable[..., Pollers]) -> None:
    names = [f"s{number}" for number in range(MAX_STREAMS_AT_ONCE + 4)]
    full = threading.Event()

    def run(limit: Deadline) -> RunResult:
        if pollers.at_once >= expected:
            full.set()
        assert full.wait(LONG_S)
        return RunResult("x")

    for follow, expected in ((False, MAX_STREAMS_AT_ONCE), (True, len(names))):
        full.clear()
        pollers = scripted(**dict.fromkeys(names, run))
        run_streams([settings(name) for name in names], follow=follow)
        assert pollers.most_at_once == expected
        assert [asked["follow"] for asked in pollers.asked] == [follow] * len(names)


def test_a_failure_is_told_while_the_others_go_on(scripted: Callable[..., Pollers]) -> None:
    scripted(bad=fails(HistoryLostError("gone")), good=until_stopped("good"))
    limit, told = Deadline(), []

    def ended(outcome: Outcome) -> None:
        told.append((outcome.settings.stream_name, limit.stop.is_set(), threading.current_thread()))
        limit.stop.set()

    outcomes = run_streams([settings("bad"), settings("good")], limit=limit, follow=True, ended=ended)
    here = threading.current_thread()
    assert told == [("bad", False, here), ("good", True, here)]
    assert outcomes[1].result is not None
    assert outcomes[1].result.stopped_by == "signal"


@pytest.mark.parametrize("error", [OSError("nobody reads"), KeyboardInterrupt()], ids=repr)
def test_what_ends_the_caller_ends_the_streams_with_a_checkpoint(
    scripted: Callable[..., Pollers], error: BaseException
) -> None:
    begun = threading.Event()

    def good(limit: Deadline) -> RunResult:
        begun.set()
        return until_stopped("good")(limit)

    def bad(limit: Deadline) -> RunResult:
        assert begun.wait(LONG_S)  # what has not begun would be called off
        raise TargetError("kafka", "no broker")

    pollers = scripted(bad=bad, good=good)

    def ended(outcome: Outcome) -> None:
        raise error

    with pytest.raises(type(error)):
        run_streams([settings("bad"), settings("good")], patience=Patience(), follow=True, ended=ended)
    assert pollers.at_once == 0
    assert pollers.closed == 2


def test_what_ends_the_caller_begins_no_stream_that_has_not_begun(scripted: Callable[..., Pollers]) -> None:
    names = [f"s{number}" for number in range(MAX_STREAMS_AT_ONCE + 4)]
    pollers = scripted(**{name: until_stopped(name) for name in names} | {"s0": fails(TargetError("kafka", "gone"))})

    def ended(outcome: Outcome) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_streams([settings(name) for name in names], ended=ended)
    assert len(pollers.made) <= MAX_STREAMS_AT_ONCE + 1
    assert pollers.at_once == 0


def test_who_watches_is_told(scripted: Callable[..., Pollers]) -> None:
    scripted(a=ends("a"), b=ends("b"))
    told: list[Any] = []
    run_streams([settings("a"), settings("b")], watch=lambda found: Watcher(told, found.stream_name))
    assert sorted(told) == [("a", "progress"), ("b", "progress")]


def test_trouble_is_waited_for_where_one_follows_and_not_where_not(scripted: Callable[..., Pollers]) -> None:
    runs: list[Run] = [fails(SourceUnavailableError("away")), ends("a")]
    scripted(a=lambda limit: runs.pop(0)(limit))
    told: list[Any] = []
    [outcome] = run_streams([settings("a")], follow=True, watch=lambda found: Watcher(told, found.stream_name))
    assert outcome.exit_code == 0
    assert ("a", "waiting") in told
    scripted(a=fails(SourceUnavailableError("away")))
    [outcome] = run_streams([settings("a")])
    assert outcome.exit_code == 3


@pytest.mark.parametrize(("give_up_after_s", "patience_s"), [(3.0, 3.0), (0.0, 30.0), (float("inf"), 30.0)])
def test_a_run_is_not_more_patient_than_its_stream(
    scripted: Callable[..., Pollers], give_up_after_s: float, patience_s: float
) -> None:
    pollers = scripted(a=ends("a"))
    limit = Deadline()
    run_streams([settings("a")], limit=limit, patience=Patience(give_up_after_s=give_up_after_s))
    assert pollers.limits[0].patience_s == patience_s
    assert pollers.limits[0].stop is limit.stop
    assert limit.patience_s == 30.0, "the caller's own is left as it is"
