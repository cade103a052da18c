"""`adapters config-schema`."""

from __future__ import annotations

from .output import examples, write_json

EXAMPLES = examples("adapters config-schema > run.schema.json")


def config_schema_command() -> None:
    """Write the JSON schema of the files that `adapters train` reads; editors check and complete them with it."""
    from ..runs import RunConfig

    write_json(RunConfig.model_json_schema())
