"""From a collection to the tables of a warehouse: extract, then load, by a state machine; or the load by S3's event.

What is processed on the way, the stream's own steps do while it is extracted.
"""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from docdb_stream.targets._aws.manifest import manifest_folder
from docdb_stream.targets.s3 import S3Settings
from infra.function import StreamFunction
from infra.machine import alone, clocked_machine, worked_by
from infra.settings import DeploySettings

_EVENT_AGE = Duration.hours(1)
"""Manifests that came meanwhile are loaded with the next one."""


class PipelineMachine(Construct):
    """Extracts until the stream has caught up, then loads until nothing waits; what fails ends it, and is told.

    Args:
        runs: The stream's function.
        loads: That of its loads.
        deploy: What holds for the whole deployment.
        alerts: The topic that a failure is told.
    """

    def __init__(self, runs: StreamFunction, loads: StreamFunction, deploy: DeploySettings, alerts: sns.ITopic) -> None:
        super().__init__(loads, "Pipeline")
        self.loads = loads
        name = loads.plan.name
        self.machine = clocked_machine(
            self,
            name,
            alone(self, name, self._states(runs, alerts)),
            functions=[runs, loads],
            deploy=deploy,
            what=f"Extracts and loads {loads.plan.stream}",
        )

    def _states(self, runs: StreamFunction, alerts: sns.ITopic) -> sfn.IChainable:
        stream = self.loads.plan.stream
        extract, load = worked_by(self, "Extract", runs), worked_by(self, "Load", self.loads)
        told = tasks.SnsPublish(
            self,
            "Tell",
            topic=alerts,
            subject=f"docdb-stream: the pipeline of {stream} failed"[:100],
            message=sfn.TaskInput.from_text(sfn.JsonPath.json_to_string(sfn.JsonPath.object_at("$"))),
        ).next(
            sfn.Fail(self, "Failed", error="PipelineFailed", cause=f"{stream}: see the alert, and the function's log")
        )
        for step in (extract, load):
            step.add_catch(told, errors=["States.ALL"])
        is_more = sfn.Condition.or_(
            sfn.Condition.string_equals("$.stopped_by", "max-loop"),
            sfn.Condition.string_equals("$.stopped_by", "deadline"),
        )
        is_waiting = sfn.Condition.number_greater_than("$.waiting", 0)
        load.next(
            sfn.Choice(self, "Is more to load?").when(is_waiting, load).otherwise(sfn.Succeed(self, "All is loaded"))
        )
        extract.next(sfn.Choice(self, "Is more to extract?").when(is_more, extract).otherwise(load))
        return extract


def load_by_event(loads: StreamFunction, failures: sqs.IQueue) -> events.Rule:
    """Have S3's event of a new manifest start the load: EventBridge, which the bucket has to be told of."""
    settings = loads.plan.settings
    own = settings.of(S3Settings)
    return events.Rule(
        loads,
        "Manifests",
        description=f"Starts the load of {loads.plan.stream} with each new manifest",
        event_pattern=events.EventPattern(
            source=["aws.s3"],
            detail_type=["Object Created"],
            detail={
                "bucket": {"name": [own.where]},
                "object": {"key": [{"prefix": manifest_folder(own.bucket_path, settings.stream_name)}]},
            },
        ),
        targets=[
            targets.LambdaFunction(loads.function, dead_letter_queue=failures, max_event_age=_EVENT_AGE),
        ],
    )
