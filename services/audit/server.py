"""The audit service over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from landline.audit.v1 import audit_pb2, audit_pb2_grpc

from services.audit.journal import JournalWriteError
from services.audit.record import Event, EventRejectedError, plain
from services.audit.service import OverloadedError

if TYPE_CHECKING:
    from services.audit.service import AuditService


class AuditServicer(audit_pb2_grpc.AuditServicer):
    """Turns requests into events and errors into gRPC status codes."""

    def __init__(self, service: AuditService) -> None:
        self._service = service

    async def Record(  # noqa: N802
        self,
        request: audit_pb2.RecordRequest,
        context: grpc.aio.ServicerContext[audit_pb2.RecordRequest, audit_pb2.RecordResponse],
    ) -> audit_pb2.RecordResponse:
        try:
            last = await self._service.record([_event(event) for event in request.events])
        except EventRejectedError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except OverloadedError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except JournalWriteError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return audit_pb2.RecordResponse(last_sequence=last.seq, head=last.hash)


def _event(event: audit_pb2.Event) -> Event:
    return Event(
        type=event.type,
        time_unix_ms=event.time_unix_ms,
        call_id=event.call_id,
        fields={name: _value(value) for name, value in event.fields.fields.items()},
    )


def _value(value: Any) -> Any:
    """A google.protobuf.Value as plain JSON; numbers that JSON does not know are refused later."""
    match value.WhichOneof("kind"):
        case "number_value":
            return plain(value.number_value)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return {name: _value(item) for name, item in value.struct_value.fields.items()}
        case "list_value":
            return [_value(item) for item in value.list_value.values]
        case _:
            return None
