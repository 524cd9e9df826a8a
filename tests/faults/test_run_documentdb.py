"""The integration suite's runs once more, through the stand-in for Amazon DocumentDB."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from faults.standin import DocumentDB
from integration.test_run import (  # noqa: F401 - collected here as well, with the stream below
    Mongo,
    Stream,
    test_a_collection,
    test_a_database,
    test_a_dropped_and_recreated_collection_goes_on_by_itself,
    test_a_dropped_collection_stays_quiet_and_then_goes_on,
    test_a_dropped_database_goes_on_by_itself,
    test_a_killed_run_loses_nothing_and_keeps_the_order,
    test_a_lease_held_elsewhere,
    test_a_renamed_collection,
    test_a_run_that_ends_right_at_the_invalidate,
    test_a_timeout_ends_the_run_before_it_with_a_checkpoint,
    test_a_watched_collection_need_not_exist_yet,
    test_an_idle_streams_position_moves_on,
    test_an_update_of_a_document_that_is_gone,
    test_every_saved_position_can_be_resumed,
    test_following_ends_cleanly_on_a_signal,
    test_many_events_in_small_batches_arrive_in_order,
    test_max_loop_stops_in_between_and_the_next_run_goes_on,
    test_nothing_is_written_to_what_is_watched,
    test_several_streams_of_a_config_file,
    test_start_at_the_earliest,
    test_the_command_line_delivers_reports_and_goes_on,
    test_the_deployment_without_its_own_state,
)

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture
def stream(documentdb: Callable[..., DocumentDB], mongo: Mongo, db_name: str, tmp_path: Path) -> Stream:
    """As in the integration suite, but the poller sees DocumentDB 5.0; the writer still sees MongoDB."""
    return Stream(documentdb(post_batch_tokens=True).uri, mongo, db_name, tmp_path)
