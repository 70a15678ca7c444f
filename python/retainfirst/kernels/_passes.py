"""The GPU kernels: one pass over all tensors of a dtype, and the sum of its programs' statistics.

Their table, int64: the sizes of ``n`` tensors, the first program of each, the addresses of each list of ``n`` tensors, then the
tensor of each program.

Products are summed in float64: there the product of two 16-bit or float32 numbers is exact and does not underflow. The order of
the additions depends on sizes alone, so that equal gradients give equal bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["add_rows", "combine_blocks", "guard_blocks"]


# How many programs and tensors there are must not be compiled in: they change from model to model.
@triton.jit(do_not_specialize=["n", "skipped"])
def combine_blocks(
    table,
    sums,
    c_retain,
    c_forget,
    alpha,
    gamma,
    n,
    skipped,
    formula: tl.constexpr,
    dtype: tl.constexpr,
    wide: tl.constexpr,
    block: tl.constexpr,
    steps: tl.constexpr,
    threads: tl.constexpr,
    vector: tl.constexpr,
    aligned: tl.constexpr,
    even: tl.constexpr,
    measured: tl.constexpr,
):
    """Combine ``block * steps`` elements of one tensor; write their sums to this program's row.

    Args:
        table: See above; the lists are the forget and the retain gradients.
        sums: float64 ``[programs, 8]``: ff, rr, fr, conflicts, uu, ur, uf, 0.
        c_retain: float64 ``[n]``, for the formula ``"linear"``.
        c_forget: Likewise.
        alpha: float32, for the other formulas.
        gamma: Likewise.
        n: The number of tensors.
        skipped: The programs before this launch's.
        formula: ``"moments"``, ``"linear"`` or the name of an element-wise formula.
        dtype: The gradients'.
        wide: The dtype in which products are summed within a program.
        block: Elements at a time.
        steps: Blocks a program.
        threads: Threads a program.
        vector: Neighbouring elements that a thread loads at once: 16 bytes, or one element where addresses allow no more.
        aligned: Whether all addresses of this launch are multiples of 16.
        even: Whether all sizes are.
        measured: Whether the sums are wanted.
    """
    program = skipped + tl.program_id(0)
    tensor = tl.load(table + 4 * n + program)
    start = (program - tl.load(table + n + tensor)) * (block * steps)
    left = tl.minimum(tl.load(table + tensor) - start, block * steps).to(tl.int32)
    f_start = _start(table + 2 * n + tensor, start, dtype, aligned)
    r_start = _start(table + 3 * n + tensor, start, dtype, aligned)
    if even:
        left = tl.multiple_of(left, 16)
    if formula == "linear":
        alpha = tl.load(c_retain + tensor)
        gamma = tl.load(c_forget + tensor)

    # Each thread adds up its own elements, and only the last sums cross threads.
    ff, rr, uu, fr, ur, uf, conflicts = _no_sums(threads, wide)
    # All blocks but a tensor's last are whole, and a load without a mask is one wide instruction.
    whole = left // block * block
    for at in range(0, whole, block):
        offsets = at + tl.arange(0, block)
        f = tl.load(f_start + offsets)
        r = tl.load(r_start + offsets)
        u = _update(f, r, alpha, gamma, formula, dtype)
        if formula != "moments":
            tl.store(r_start + offsets, u)
        if measured:
            ff, rr, uu, fr, ur, uf, conflicts = _measured(
                f, r, u, ff, rr, uu, fr, ur, uf, conflicts, formula, wide, threads, vector
            )
    if whole < left:
        offsets = whole + tl.arange(0, block)
        inside = offsets < left
        f = tl.load(f_start + offsets, inside, 0.0)
        r = tl.load(r_start + offsets, inside, 0.0)
        u = _update(f, r, alpha, gamma, formula, dtype)
        if formula != "moments":
            tl.store(r_start + offsets, u, inside)
            # An infinite coefficient makes NaN even of the zeros past the end.
            u = tl.where(inside, u, 0.0).to(dtype)
        if measured:
            ff, rr, uu, fr, ur, uf, conflicts = _measured(
                f, r, u, ff, rr, uu, fr, ur, uf, conflicts, formula, wide, threads, vector
            )

    if not measured:
        return
    # Sums that a formula leaves out are still zero.
    row = sums + program.to(tl.int64) * 8
    _store_sums(row, ff, rr, uu, fr, ur, uf, conflicts)
    tl.store(row + 7, 0.0)


@triton.jit(do_not_specialize=["n", "skipped"])
def guard_blocks(
    table,
    sums,
    n,
    skipped,
    put_back: tl.constexpr,
    zeros: tl.constexpr,
    measured: tl.constexpr,
    dtype: tl.constexpr,
    wide: tl.constexpr,
    block: tl.constexpr,
    steps: tl.constexpr,
    threads: tl.constexpr,
    vector: tl.constexpr,
    aligned: tl.constexpr,
    even: tl.constexpr,
):
    """Put back and measure ``block * steps`` elements of one tensor's step; write their sums to this program's row.

    Args:
        table: See above; the lists are the parameters before and after the step, the signs, the forget and the retain gradients.
            A list that is not needed is not read.
        sums: float64 ``[programs, 8]``: as for :func:`combine_blocks`, with the step backwards for the forget gradient and the
            forget gradient for the update, and without ur; last how many elements were put back.
        n: The number of tensors.
        skipped: The programs before this launch's.
        put_back: Whether elements are put back where the step and the signs agree.
        zeros: Whether also where the signs are zero.
        measured: Whether the step is measured.
        dtype: The tensors'.
        wide: See :func:`combine_blocks`, as for the others.
        block: Elements at a time.
        steps: Blocks a program.
        threads: Threads a program.
        vector: Neighbouring elements that a thread loads at once.
        aligned: Whether all addresses of this launch are multiples of 16.
        even: Whether all sizes are.
    """
    program = skipped + tl.program_id(0)
    tensor = tl.load(table + 7 * n + program)
    start = (program - tl.load(table + n + tensor)) * (block * steps)
    left = tl.minimum(tl.load(table + tensor) - start, block * steps).to(tl.int32)
    b_start = _start(table + 2 * n + tensor, start, dtype, aligned)
    a_start = _start(table + 3 * n + tensor, start, dtype, aligned)
    s_start = _start(table + 4 * n + tensor, start, dtype, aligned)
    f_start = _start(table + 5 * n + tensor, start, dtype, aligned)
    r_start = _start(table + 6 * n + tensor, start, dtype, aligned)
    if even:
        left = tl.multiple_of(left, 16)
    dd, rr, ff, dr, fr, fd, opposing = _no_sums(threads, wide)
    count = tl.zeros([threads], tl.int32)
    whole = left // block * block
    for at in range(0, whole, block):
        offsets = at + tl.arange(0, block)
        b = tl.load(b_start + offsets)
        a = tl.load(a_start + offsets)
        if put_back:
            put = _to_put_back(b, a, tl.load(s_start + offsets), zeros)
            a = tl.where(put, b, a)
            tl.store(a_start + offsets, a)
            count += _by_thread(put.to(tl.int32), threads, vector)
        if measured:
            f = tl.load(f_start + offsets)
            r = tl.load(r_start + offsets)
            d = b.to(tl.float32) - a.to(tl.float32)
            dd, rr, ff, dr, fr, fd, opposing = _measured(
                d, r, f, dd, rr, ff, dr, fr, fd, opposing, "guard", wide, threads, vector
            )
    if whole < left:
        offsets = whole + tl.arange(0, block)
        inside = offsets < left
        b = tl.load(b_start + offsets, inside, 0.0)
        a = tl.load(a_start + offsets, inside, 0.0)
        if put_back:
            put = _to_put_back(b, a, tl.load(s_start + offsets, inside, 0.0), zeros)
            a = tl.where(put, b, a)
            tl.store(a_start + offsets, a, inside)
            count += _by_thread(put.to(tl.int32), threads, vector)
        if measured:
            f = tl.load(f_start + offsets, inside, 0.0)
            r = tl.load(r_start + offsets, inside, 0.0)
            d = b.to(tl.float32) - a.to(tl.float32)
            dd, rr, ff, dr, fr, fd, opposing = _measured(
                d, r, f, dd, rr, ff, dr, fr, fd, opposing, "guard", wide, threads, vector
            )
    row = sums + program.to(tl.int64) * 8
    # Nobody asks for the product of the two gradients.
    _store_sums(row, dd, rr, ff, dr, tl.zeros_like(fr), fd, opposing)
    tl.store(row + 7, tl.sum(count, 0).to(tl.float64))


@triton.jit(do_not_specialize=["n"])
def add_rows(table, sums, moments, counts, n, counted: tl.constexpr, span: tl.constexpr, rows: tl.constexpr):
    """Add up the programs' rows of one tensor.

    Args:
        table: See above.
        sums: float64 ``[programs, 8]``.
        moments: float64 ``[n, 11]`` (``retainfirst.moments.COLUMNS``); the three exponents are zero.
        counts: int64 ``[n]``, for the last column of the sums.
        n: The number of tensors.
        counted: Whether ``counts`` is written.
        span: Elements a program.
        rows: Rows at a time.
    """
    tensor = tl.program_id(0)
    size = tl.load(table + tensor)
    first = tl.load(table + n + tensor)
    programs = (size + span - 1) // span
    columns = tl.arange(0, 8)
    total = tl.zeros([rows, 8], tl.float64)
    for at in range(0, programs, rows):
        offsets = at + tl.arange(0, rows)
        here = (first + offsets)[:, None] * 8 + columns[None, :]
        total += tl.load(sums + here, (offsets < programs)[:, None], 0.0)
    # The first four columns of the sums are the pair's; count and two exponents lie between them and the update's.
    place = tl.where(columns < 4, columns, columns + 3)
    added = tl.sum(total, 0)
    tl.store(moments + tensor * 11 + place, tl.where(columns < 7, added, 0.0))
    if counted:
        tl.store(counts + tensor, tl.sum(tl.where(columns == 7, added, 0.0), 0).to(tl.int64))
    between = tl.arange(0, 4)
    tl.store(moments + tensor * 11 + 4 + between, tl.where(between == 0, size.to(tl.float64), 0.0), between < 3)


@triton.jit
def _start(address, start, dtype: tl.constexpr, aligned: tl.constexpr):
    place = tl.load(address).to(tl.pointer_type(dtype)) + start
    # Without the hint Triton knows nothing of an address from a table, and reads element by element.
    if aligned:
        place = tl.multiple_of(place, 16)
    return place


@triton.jit
def _to_put_back(before, after, signs, zeros: tl.constexpr):
    # float32 holds all of their numbers. NaN compares as false, and so is never put back.
    before = before.to(tl.float32)
    after = after.to(tl.float32)
    signs = signs.to(tl.float32)
    put = ((after > before) & (signs > 0)) | ((after < before) & (signs < 0))
    if zeros:
        put = put | (((after > before) | (after < before)) & (signs == 0))
    return put


@triton.jit
def _update(f, r, alpha, gamma, formula: tl.constexpr, dtype: tl.constexpr):
    """Return the update in the gradients' dtype; for ``"moments"``, which has none, any tensor."""
    if formula == "moments":
        return r
    elif formula == "linear":  # noqa: RET505 (a return ends a jitted function only where the other branch is not compiled)
        return _rounded(alpha * r.to(tl.float64) + gamma * f.to(tl.float64), dtype)
    else:
        return _elementwise(f.to(tl.float32), r.to(tl.float32), alpha, gamma, formula).to(dtype)


@triton.jit
def _elementwise(f, r, alpha, gamma, formula: tl.constexpr):
    keep = alpha * r
    update = gamma * f
    if formula != "sago":
        update = keep + update
    if formula != "sum":
        update = tl.where(_conflict(f, r), keep, update)
        # A mask alone would pick the finite one of the two and hide a broken gradient from the loss scaler.
        finite = (tl.abs(f) < float("inf")) & (tl.abs(r) < float("inf"))
        update = tl.where(finite, update, f + r)
    return update


@triton.jit
def _conflict(f, r):
    # By the two signs: the product of two small gradients underflows to zero and would hide their conflict.
    return ((f < 0) & (r > 0)) | ((f > 0) & (r < 0))


@triton.jit
def _rounded(x, dtype: tl.constexpr):
    """Round float64 once.

    To a 16-bit format it goes through float32, rounded to odd there, which no later rounding can tell from the number itself;
    rounded to nearest it could come to lie in the middle between two 16-bit numbers.
    """
    near = x.to(tl.float32)
    if dtype != tl.float32:
        back = near.to(tl.float64)
        bits = near.to(tl.int32, bitcast=True)
        bits = tl.where(tl.abs(back) > tl.abs(x), bits - 1, bits)
        bits = tl.where(back == x, bits, bits | 1)
        near = bits.to(tl.float32, bitcast=True)
    return near.to(dtype)


@triton.jit
def _no_sums(threads: tl.constexpr, wide: tl.constexpr):
    """Return ff, rr, uu, fr, ur, uf and the conflicts of nothing, by thread."""
    zero = tl.zeros([threads], wide)
    return zero, zero, zero, zero, zero, zero, tl.zeros([threads], tl.int32)


@triton.jit
def _store_sums(row, ff, rr, uu, fr, ur, uf, conflicts):
    tl.store(row, tl.sum(ff.to(tl.float64), 0))
    tl.store(row + 1, tl.sum(rr.to(tl.float64), 0))
    tl.store(row + 2, tl.sum(fr.to(tl.float64), 0))
    tl.store(row + 3, tl.sum(conflicts, 0).to(tl.float64))
    tl.store(row + 4, tl.sum(uu.to(tl.float64), 0))
    tl.store(row + 5, tl.sum(ur.to(tl.float64), 0))
    tl.store(row + 6, tl.sum(uf.to(tl.float64), 0))


@triton.jit
def _measured(
    f, r, u, ff, rr, uu, fr, ur, uf, conflicts, formula: tl.constexpr, wide: tl.constexpr, threads: tl.constexpr,
    vector: tl.constexpr,
):  # fmt: skip
    """Add a block to the sums: the gradients' own unless the formula is ``"linear"``, the update's unless it is ``"moments"``."""
    f = f.to(tl.float32)
    r = r.to(tl.float32)
    if formula != "linear":
        conflicts += _by_thread(_conflict(f, r).to(tl.int32), threads, vector)
    f = f.to(wide)
    r = r.to(wide)
    if formula != "linear":
        ff += _by_thread(f * f, threads, vector)
        rr += _by_thread(r * r, threads, vector)
        fr += _by_thread(f * r, threads, vector)
    if formula != "moments":
        u = u.to(tl.float32).to(wide)
        uu += _by_thread(u * u, threads, vector)
        ur += _by_thread(u * r, threads, vector)
        uf += _by_thread(u * f, threads, vector)
    return ff, rr, uu, fr, ur, uf, conflicts


@triton.jit
def _by_thread(x, threads: tl.constexpr, vector: tl.constexpr):
    rounds: tl.constexpr = x.shape[0] // (threads * vector)
    return tl.sum(tl.sum(tl.reshape(x, [rounds, threads, vector]), 2), 0)
