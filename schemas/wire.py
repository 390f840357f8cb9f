"""Field types that all wire models share: ids, times, amounts, flat maps."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last instant that RFC 3339 can write
RFC3339 = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}"
    r"(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)


class Wire(BaseModel):
    """What producers send. Unknown fields pass, missing required ones reject, a changed type rejects."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Message(Wire):
    """A whole record, as against a part of one."""

    schema_version: Literal[1] = 1


def _epoch_ms(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time, rounded down."""
    moment = datetime.fromisoformat(text.upper())
    whole = int(moment.replace(microsecond=0).timestamp()) * 1_000
    ms = whole + moment.microsecond // 1_000
    if not 0 <= ms <= LAST_MS:
        raise PydanticCustomError("time_out_of_range", "Time should be in 1970 to 9999")
    return ms


class _EpochMs:
    """int milliseconds or RFC 3339 text with offset; an int in the model. Only text costs a Python call."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> CoreSchema:
        number = core_schema.int_schema(strict=True, ge=0, le=LAST_MS)
        text = core_schema.str_schema(strict=True, max_length=40, pattern=RFC3339)
        return core_schema.union_schema(
            [number, core_schema.no_info_after_validator_function(_epoch_ms, text)],
            mode="left_to_right",
        )


Time = Annotated[int, _EpochMs]
Id = Annotated[
    str, Field(min_length=1, max_length=512, description="a string of 1 to 512 characters")
]
Label = Annotated[str, Field(max_length=512, description="a string of at most 512 characters")]
Query = Annotated[str, Field(max_length=2_000, description="a string of at most 2000 characters")]
# Amounts must stay finite in float32, where the model computes.
Amount = Annotated[float, Field(ge=0, le=1e15, description="a finite number, 0 or more")]
Ratio = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Position = Annotated[int, Field(ge=1, le=1_000_000, description="1 is the first place")]
Duration = Annotated[int, Field(ge=0, le=2**53, description="milliseconds")]
Scalar = str | float
FlatMap = Annotated[dict[Label, Scalar], Field(max_length=64)]
Attributes = Annotated[dict[Label, Scalar | bool | list[Scalar]], Field(max_length=256)]
JsonObject = dict[str, Any]
