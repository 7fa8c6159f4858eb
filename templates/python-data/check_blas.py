"""Refuses a zygote whose linear algebra computes wrong on this processor.

Some versions of OpenBLAS have kernels that are wrong on some processors. Products of small integers are exact in
each type, so they are compared with numpy's own loops, which need no BLAS; LAPACK's results are multiplied back.
The check runs in a child: its writes stay out of the clones, and an instruction that this processor lacks ends
only the child. warm.py runs it once in each zygote.
"""

import ctypes
import itertools
import os

import numpy as np

KINDS = (np.float64, np.float32, np.complex128, np.complex64)
# Rows, inner length, columns: odd sizes, and sizes beyond the kernels' blocks, one side at a time.
PRODUCTS = ((1, 1, 1), (2, 3, 5), (7, 9, 4), (16, 16, 16), (17, 33, 19), (31, 64, 33), (65, 127, 67), (49, 390, 50))
LONG_PRODUCTS = ((1030, 21, 9), (9, 1030, 21), (21, 9, 1030))
DOT_LENGTHS = (*range(1, 36), 63, 64, 65, 127, 1001)
SQUARES = (1, 2, 5, 16, 33, 70)
DIGITS_LOST_MAX = 1e4  # of a decomposition's result, as a multiple of the type's last digit


def integers(rng, kind, *shape):
    """Small whole numbers of a type, and the same numbers as integers: real and imaginary part."""
    parts = rng.integers(-3, 4, (2, *shape))
    if not issubclass(kind, np.complexfloating):
        return parts[0].astype(kind), (parts[0], None)
    return (parts[0] + 1j * parts[1]).astype(kind), (parts[0], parts[1])


def exact(left, right):
    """A product without BLAS."""
    (a, ai), (b, bi) = left, right
    if ai is None:
        return a @ b
    return (a @ b - ai @ bi) + 1j * (a @ bi + ai @ b)


def turned(parts):
    return tuple(None if part is None else part.T for part in parts)


def wrong_products(rng, kind):
    for rows, inner, columns in PRODUCTS + LONG_PRODUCTS:
        a, of_a = integers(rng, kind, rows, inner)
        bt, of_bt = integers(rng, kind, columns, inner)  # numpy's loops need it along rows
        want = exact(of_a, turned(of_bt))
        shape = f"{rows} x {inner} by {inner} x {columns}"
        for a_order, b_order in itertools.product("CF", "CF"):
            got = np.asarray(a, order=a_order) @ np.asarray(bt.T, order=b_order)
            if not np.array_equal(got, want):
                yield f"a matrix product, {shape}"
        if rows < 100 and not np.array_equal(a @ a.T, exact(of_a, turned(of_a))):
            yield f"a matrix by itself turned, {rows} x {inner}"
        vector = bt[0]
        for order in "CF":
            if not np.array_equal(np.asarray(a, order=order) @ vector, want[:, 0]):
                yield f"a matrix by a vector, {rows} x {inner}"
            if not np.array_equal(vector @ np.asarray(a.T, order=order), want[:, 0]):
                yield f"a vector by a matrix, {inner} x {rows}"


def wrong_dots(rng, kind):
    for length in DOT_LENGTHS:
        (a, of_a), (b, of_b) = integers(rng, kind, 2 * length), integers(rng, kind, 2 * length)
        for step in (1, 2):
            short = [tuple(None if part is None else part[::step] for part in parts) for parts in (of_a, of_b)]
            if np.dot(a[::step], b[::step]) != exact(*short):
                yield f"a dot product of {len(a[::step])}"


def wrong_decompositions(rng, kind):
    for size in SQUARES:
        noise, _ = integers(rng, kind, size, size)
        matrix = noise + kind(4 * size) * np.eye(size, dtype=kind)
        whole = noise + noise.conj().T
        definite = noise @ noise.conj().T + np.eye(size, dtype=kind)
        left, _ = integers(rng, kind, size, 3)
        # Each result with the matrix that it must reproduce.
        lower = np.linalg.cholesky(definite)
        q, r = np.linalg.qr(noise)
        u, s, vh = np.linalg.svd(noise)
        values, vectors = np.linalg.eigh(whole)
        any_values, any_vectors = np.linalg.eig(matrix)
        unit = np.eye(size)
        for what, got, want in (
            ("a linear system", matrix @ np.linalg.solve(matrix, left), left),
            ("an inverse", matrix @ np.linalg.inv(matrix), unit),
            ("a Cholesky decomposition", lower @ lower.conj().T, definite),
            ("a QR decomposition", q @ r, noise),
            ("a QR decomposition's Q", q.conj().T @ q, unit),
            ("a singular value decomposition", (u * s) @ vh, noise),
            ("a singular value decomposition's U", u.conj().T @ u, unit),
            ("symmetric eigenvalues", (vectors * values) @ vectors.conj().T, whole),
            ("symmetric eigenvectors", vectors.conj().T @ vectors, unit),
            ("eigenvalues", any_vectors * any_values, matrix @ any_vectors),
        ):
            allowed = DIGITS_LOST_MAX * np.finfo(kind).eps * max(1.0, np.abs(want).max())
            if not np.abs(got - want).max() <= allowed:
                yield f"{what}, {size} x {size}"


def find_fault():
    """The first wrong result in words, or None."""
    rng = np.random.default_rng(20240229)
    for kind in KINDS:
        for faults in (wrong_products, wrong_dots):
            for fault in faults(rng, kind):
                return f"{fault}, of {np.dtype(kind)}"
    for kind in (np.float64, np.complex128):  # numpy decomposes in double precision, whatever the input
        for fault in wrong_decompositions(rng, kind):
            return f"{fault}, of {np.dtype(kind)}"
    return None


def kernels():
    """The kernels in use: OpenBLAS' name of their processor."""
    try:
        corename = ctypes.PyDLL("libblas.so.3").openblas_get_corename
    except (OSError, AttributeError):
        return "this BLAS"
    corename.restype = ctypes.c_char_p
    return "OpenBLAS/" + corename().decode()


def processor():
    """The processor's name if the zygote can see it, else the features that numpy found."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        from numpy._core._multiarray_umath import __cpu_features__ as features

        return "+".join(name for name in ("AVX2", "AVX512F", "AVX512_SKX") if features.get(name))


def refuse_wrong_results():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fault = find_fault()
        except BaseException as error:
            fault = f"{type(error).__name__}: {error}"
        os.write(write, (fault or "none").encode())
        os._exit(0)
    os.close(write)
    with open(read) as file:
        fault = file.read()
    status = os.waitpid(child, 0)[1]
    if status != 0:
        fault = f"its check ended with signal {os.WTERMSIG(status)}"
    if fault != "none":  # short: the template's reason holds 127 bytes
        raise ArithmeticError(f"{kernels()} is wrong on {processor()}: set OPENBLAS_CORETYPE ({fault})")
