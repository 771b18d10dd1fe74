"""Reading pickles that come from outside: only numpy arrays and plain containers may come out.

A pickle is a program that may call any function by name; Python's own loader runs it. Here all the names that it may
use are written out, and stand for functions that do no more than fill an array.
"""

from __future__ import annotations

import codecs
import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from acto.core.errors import UserError
from acto.core.files import require_regular

_MAX_PICKLE_BYTES = 2**28
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""First value of a file written by torch before its zip format."""
_NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU][0-9]{1,6})")
"""Types of arrays that are let through, as numpy writes them."""


class _Kind:
    """Stands for a numpy.dtype while a pickle is read.

    A real one takes its flags from the pickle. Without the flag "holds objects" numpy fills an array of objects with
    the file's bytes as addresses, and touching it runs into whatever lies there. Here only the byte order is taken.
    """

    def __init__(self, text: object, *_: object) -> None:
        if not isinstance(text, str) or not _NUMBERS.fullmatch(text):
            raise pickle.UnpicklingError(f"an array of {text!r}, not of numbers, booleans or texts")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An array that a pickle fills: its type comes as a _Kind."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, kind, is_fortran, data = state
        if not isinstance(kind, _Kind):
            raise pickle.UnpicklingError("an array without a type")
        if isinstance(data, str):  # Python 2 wrote bytes as text
            data = data.encode("latin1")
        checked: Any = (version, shape, kind.dtype, bool(is_fortran), data)
        super().__setstate__(checked)


def _reconstruct(subtype: type, shape: tuple[int, ...], kind: Any) -> np.ndarray[Any, Any]:
    """An empty array that the pickle then fills: how numpy writes an array before protocol 5."""
    if subtype is not _Array:
        raise pickle.UnpicklingError("an array of another type than numpy.ndarray")
    return _Array((0,), np.uint8)  # its shape and type come with its content


def _frombuffer(buffer: bytes, kind: _Kind, shape: tuple[int, ...], order: Any, *_: Any) -> np.ndarray[Any, Any]:
    """A pickled array of protocol 5."""
    return np.frombuffer(buffer, kind.dtype).reshape(shape, order=order)


def _scalar(kind: _Kind, data: bytes) -> Any:
    """A pickled numpy number."""
    return np.frombuffer(data, kind.dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as protocols before 3 write them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return codecs.encode(text, "latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # numpy 1 and numpy 2
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; only numpy arrays and plain containers are let through"
            ) from None


def load_plain(stream: BinaryIO, *, name: str) -> Any:
    """Unpickle one object made of numpy arrays, dicts, lists, tuples, strings and numbers; old text becomes latin-1.

    Args:
        stream: read from where it stands; it is left behind the object.
        name: what to call the file in an error.

    Raises:
        UserError: the pickle asks for anything else, or is broken.
    """
    try:
        return _PlainUnpickler(stream, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{name} was refused: {error}") from None
    except Exception as error:  # a broken or crafted pickle raises anything
        raise UserError(f"{name} is not a readable pickle: {type(error).__name__}: {error}") from error


def load_torch_arrays(path: Path) -> dict[str, Any]:
    """Read a dictionary of numpy arrays from a file that torch.save wrote (zip or older form), without torch.

    Raises:
        UserError: the file holds anything else (torch tensors too) or is broken.
    """
    require_regular(path)
    try:
        with path.open("rb") as stream:
            if zipfile.is_zipfile(stream):
                content = load_plain(_pickle_in_zip(stream, path), name=str(path))
            else:
                stream.seek(0)
                content = load_plain(stream, name=str(path))
                if isinstance(content, int) and content == _LEGACY_MAGIC:
                    for _ in range(3):  # the version of the form, facts about the system, and the object
                        content = load_plain(stream, name=str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of label arrays")
    return {str(key): value for key, value in content.items()}


def _pickle_in_zip(stream: BinaryIO, path: Path) -> BinaryIO:
    try:
        with zipfile.ZipFile(stream) as archive:
            for member in archive.infolist():
                if member.filename.endswith("data.pkl") and member.file_size <= _MAX_PICKLE_BYTES:
                    return io.BytesIO(archive.read(member))
    except Exception as error:  # a broken archive raises anything: zlib.error, struct.error, NotImplementedError, ...
        raise UserError(f"{path} is a damaged archive: {error}") from error
    raise UserError(f"{path} holds no data.pkl of up to {_MAX_PICKLE_BYTES} bytes: torch.save did not write it")
