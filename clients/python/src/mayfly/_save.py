"""Saves a task's files of /task/out below a folder.

The task chose the names, so they are not trusted: no file is saved outside the folder or
through a link, and an existing file is replaced as a whole, never written through.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Final

DEPTH_MAX: Final = 32
PATH_BYTES_MAX: Final = 4000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def why_odd(path: bytes) -> str:
    """Why a file of this name is not saved; empty if it can be saved."""
    if not path or path.startswith(b"/"):
        return "its name is not relative"
    if len(path) > PATH_BYTES_MAX:
        return "its name is too long"
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return "its name is not UTF-8"
    if not text.isprintable():
        return "its name has control characters"
    parts = path.split(b"/")
    if any(part in (b"", b".", b"..") for part in parts):
        return "its name has an empty part, or '.' or '..'"
    return "its path is too deep" if len(parts) > DEPTH_MAX else ""


class Writer:
    """One file: `write` pieces, then leave the `with`; after an exception no file is left."""

    def __init__(self, top: Path, path: bytes, mode: int) -> None:
        *folders, self._name = os.fsdecode(path).split("/")
        self._temporary = f".mayfly-{os.urandom(8).hex()}.part"
        self.path = top / os.fsdecode(path)
        self._folder = os.open(top, _FOLDER & ~os.O_NOFOLLOW)  # the caller's own choice
        try:
            for name in folders:
                try:
                    os.mkdir(name, 0o777, dir_fd=self._folder)
                except FileExistsError:
                    pass
                inner = os.open(name, _FOLDER, dir_fd=self._folder)
                os.close(self._folder)
                self._folder = inner
            self._file = os.open(self._temporary, _NEW, (mode & 0o777) | 0o600,
                                 dir_fd=self._folder)
        except BaseException:
            os.close(self._folder)
            raise

    def __enter__(self) -> Writer:
        return self

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view):]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            os.close(self._file)
            if kind is None:
                os.rename(self._temporary, self._name, src_dir_fd=self._folder,
                          dst_dir_fd=self._folder)
                self._temporary = ""
        finally:
            try:
                if self._temporary:
                    os.unlink(self._temporary, dir_fd=self._folder)
            finally:
                os.close(self._folder)
