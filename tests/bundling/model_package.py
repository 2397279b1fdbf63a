"""What ONNX Runtime itself makes of a model package: run as a process, with the folder's path.

It prints the variant that ONNX Runtime chooses for the CPU, and the inputs of the session that it
opens. Its Python package does not offer this, so the C interface is called: `OrtApi`, a table that
only ever grows, and `OrtModelPackageApi`.
"""

import ctypes
import json
import sys
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from pathlib import Path

import onnxruntime

_API_VERSION = 31
# Places in OrtApi.
_GET_ERROR_MESSAGE, _CREATE_ENV, _CREATE_SESSION_OPTIONS, _INPUT_COUNT = 2, 3, 10, 30
_GET_MODEL_PACKAGE_API = 427
# Places in OrtModelPackageApi.
_CREATE_OPTIONS, _CREATE_CONTEXT, _SELECT, _VARIANT_NAME, _CREATE_SESSION = 0, 2, 11, 13, 15
_OUT = POINTER(c_void_p)


class _Base(ctypes.Structure):
    _fields_ = [("get_api", CFUNCTYPE(c_void_p, c_uint32)), ("version", CFUNCTYPE(c_char_p))]


def _main(package: str) -> None:
    (file,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    library = ctypes.CDLL(str(file))
    library.OrtGetApiBase.restype = POINTER(_Base)
    table = ctypes.cast(library.OrtGetApiBase().contents.get_api(_API_VERSION), _OUT)
    packages = ctypes.cast(CFUNCTYPE(c_void_p)(table[_GET_MODEL_PACKAGE_API])(), _OUT)
    message = CFUNCTYPE(c_char_p, c_void_p)(table[_GET_ERROR_MESSAGE])

    def check(status: int | None) -> None:
        if status:
            sys.exit(message(status).decode())

    def call(place: int, *types: type) -> "ctypes._CFunctionType":
        return CFUNCTYPE(c_void_p, *types)(packages[place])

    context, env, options, chosen, component, session = (c_void_p() for _ in range(6))
    check(call(_CREATE_CONTEXT, c_char_p, _OUT)(package.encode(), byref(context)))
    create_env = CFUNCTYPE(c_void_p, c_int, c_char_p, _OUT)(table[_CREATE_ENV])
    check(create_env(3, b"test", byref(env)))
    check(CFUNCTYPE(c_void_p, _OUT)(table[_CREATE_SESSION_OPTIONS])(byref(options)))
    check(call(_CREATE_OPTIONS, c_void_p, c_void_p, _OUT)(env, options, byref(chosen)))
    select = call(_SELECT, c_void_p, c_char_p, c_void_p, _OUT)
    check(select(context, b"model", chosen, byref(component)))
    name, n_inputs = c_char_p(), c_size_t()
    check(call(_VARIANT_NAME, c_void_p, POINTER(c_char_p))(component, byref(name)))
    create = call(_CREATE_SESSION, c_void_p, c_void_p, c_void_p, _OUT)
    check(create(env, component, None, byref(session)))
    count = CFUNCTYPE(c_void_p, c_void_p, POINTER(c_size_t))(table[_INPUT_COUNT])
    check(count(session, byref(n_inputs)))
    print(json.dumps({"variant": (name.value or b"").decode(), "n_inputs": n_inputs.value}))


if __name__ == "__main__":
    _main(sys.argv[1])
