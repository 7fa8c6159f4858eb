"""Run untrusted code, each task in a brand-new box: the client of the Mayfly daemon.

    import mayfly
    with mayfly.connect() as client:
        print(client.run("python", "print(6*7)").stdout)

`Client` blocks and may be used from any thread; `AsyncClient` is the same for asyncio.
"""

from . import errors
from ._aio import AsyncClient, AsyncStdin, AsyncTask, connect_async
from ._connection import DEFAULT_SOCKET
from ._spec import PIPE, Caps, File
from ._sync import Client, Stdin, Task, connect
from ._tools import ToolError
from ._wire import PROTOCOL
from .errors import (AlreadyExists, Cancelled, DeadlineExceeded, Disconnected, ErrorCode,
                     FailedPrecondition, HostUnfit, Internal, InvalidArgument, MayflyError,
                     NotFound, PermissionDenied, ResourceExhausted, TaskFailed, Unavailable,
                     Unsupported)
from .results import (Blob, Bounds, DetachedTask, Limits, OutFile, Phases, Receipt, ServerInfo, Stream,
                      TaskInfo, TaskResult, TemplateInfo, Usage, Verdict)

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_SOCKET", "PIPE", "PROTOCOL", "AlreadyExists", "AsyncClient", "AsyncStdin",
    "AsyncTask", "Blob", "Bounds", "Cancelled", "Caps", "Client", "DeadlineExceeded",
    "DetachedTask", "Disconnected", "ErrorCode", "FailedPrecondition", "File", "HostUnfit", "Internal",
    "InvalidArgument", "Limits", "MayflyError", "NotFound", "OutFile", "PermissionDenied",
    "Phases", "Receipt", "ResourceExhausted", "ServerInfo", "Stdin", "Stream", "Task",
    "TaskFailed", "TaskInfo", "TaskResult", "TemplateInfo", "ToolError", "Unavailable",
    "Unsupported", "Usage", "Verdict", "connect", "connect_async", "errors",
]
