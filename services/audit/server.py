"""gRPC at the edge of the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf import json_format
from landline.audit.v1 import audit_pb2, audit_pb2_grpc

from services.audit.records import Event
from services.audit.service import EventRefusedError
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from services.audit.service import AuditService


class AuditServicer(audit_pb2_grpc.AuditServicer):
    """Answers when the events are on disk."""

    def __init__(self, service: AuditService) -> None:
        self._service = service

    async def Record(  # noqa: N802
        self,
        request: audit_pb2.RecordRequest,
        context: grpc.aio.ServicerContext[audit_pb2.RecordRequest, audit_pb2.RecordResponse],
    ) -> audit_pb2.RecordResponse:
        try:
            receipt = await self._service.record([to_event(event) for event in request.events])
        except EventRefusedError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except LandlineError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return audit_pb2.RecordResponse(last_sequence=receipt.last_sequence, head=receipt.head)


def to_event(event: audit_pb2.Event) -> Event:
    """The event with whole numbers as integers: Struct knows only floating point.

    EventRefusedError for NaN and infinities, which JSON does not know.
    """
    try:
        fields = _whole(json_format.MessageToDict(event.fields))
    except ValueError as error:
        raise EventRefusedError(f"{event.type}: {error}") from error
    return Event(
        type=event.type,
        time_unix_ms=event.time_unix_ms,
        call_id=event.call_id,
        fields=fields,
        id=event.id,
    )


def _whole(value: Any) -> Any:
    match value:
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case _:
            return value
