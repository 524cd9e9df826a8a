"""Lambda entry points: ``poller``, started by a schedule or SNS, and ``esm``, fed by a DocumentDB trigger."""
