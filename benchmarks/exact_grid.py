"""Exact draws from every conditional of tree, hmm and two_moons (fsimformer/simulators states the tasks).

tree: given t1, t2 and t3 are independent: p(t1 | x) ∝ N(t1; 0, 1) m2(t1) m3(t1), m_k(t1) = ∫ N(t; t1, 1) L_k(t) dt on a
grid; then t2 and t3 given t1 on the same grid. hmm: forward filtering on a grid, backward sampling; an observed state
cuts the chain. two_moons: with s = (θ₁+θ₂)/√2, d = (θ₂−θ₁)/√2 and the noise (c, e) = (r cos a, r sin a) it reads
x₁ = ¼ + c − |s|, x₂ = d + e, and (s, d) is uniform on |s| + |d| <= √2: draw the noise, solve for what is latent, keep
it with the probability that the uniform law allows; a single latent is drawn on a fine grid.
"""

from __future__ import annotations

import math

import numpy as np

ROOT2 = math.sqrt(2)


def draw_on_grid(start: np.ndarray | float, step: float, log_p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Inverse of the CDF of a density that is linear between grid points.

    Args:
        start: first grid point, a number or (rows,). step: distance of the points.
        log_p: (rows, G) log density at start + step·(0 … G − 1), up to a constant a row.
        u: (rows, m) uniform numbers.

    Returns:
        (rows, m).
    """
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    mass = np.cumsum((p[:, :-1] + p[:, 1:]) / 2, axis=1)
    target = u * mass[:, -1:]
    if len(p) == 1:
        cell = np.searchsorted(mass[0], target[0])[None]
    else:
        cell = np.stack([(mass < target[:, [j]]).sum(1) for j in range(u.shape[1])], 1)
    cell = np.minimum(cell, mass.shape[1] - 1)
    take = lambda a, i: np.take_along_axis(a, i, 1)  # noqa: E731
    left, right = take(p, cell), take(p, cell + 1)
    rest = target - np.where(cell > 0, take(mass, np.maximum(cell - 1, 0)), 0.0)
    root = np.sqrt(np.maximum(left**2 + 2 * (right - left) * rest, 0.0))
    part = np.clip(2 * rest / np.maximum(left + root, 1e-300), 0.0, 1.0)
    return np.asarray(start).reshape(-1, 1) + step * (cell + part)


def _log_normal(x: np.ndarray | float, mean: np.ndarray | float, sd: float) -> np.ndarray:
    """log N(x; mean, sd²) up to a constant."""
    return -0.5 * ((x - mean) / sd) ** 2


TREE_NOISE = (0.2, 0.2, 0.6, 0.1)
TREE_STEP, TREE_END = 0.005, 8.0


def _tree_means(t: np.ndarray, child: int) -> np.ndarray:
    """(…, 2): means of the two x below t2 (child 0) or t3 (child 1)."""
    pair = (np.sin(t) ** 2, 0.1 * t**2) if child == 0 else (0.1 * t**2, np.cos(t) ** 2)
    return np.stack(pair, -1)


def tree_rows(observed: np.ndarray, value: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    out = np.repeat(value[None], n, 0)
    grid = np.arange(-TREE_END, TREE_END + TREE_STEP / 2, TREE_STEP)
    likelihood = np.zeros((2, len(grid)))
    for child in range(2):
        for j, id in enumerate((3 + 2 * child, 4 + 2 * child)):
            if observed[id]:
                mean = _tree_means(grid, child)[:, j]
                likelihood[child] += _log_normal(value[id], mean, TREE_NOISE[id - 3])
    if not observed[0]:
        coarse = grid[::4]
        log_p = _log_normal(coarse, 0.0, 1.0)
        for child in range(2):
            if observed[1 + child]:
                log_p += _log_normal(value[1 + child], coarse, 1.0)
            else:
                peak = likelihood[child].max()
                kernel = np.exp(_log_normal(grid[None], coarse[:, None], 1.0))
                log_p += np.log(np.maximum(kernel @ np.exp(likelihood[child] - peak), 1e-300))
        out[:, 0] = draw_on_grid(coarse[0], 4 * TREE_STEP, log_p[None], rng.random((1, n)))[0]
    for child in range(2):
        if not observed[1 + child]:
            t1 = out[:1, 0] if observed[0] else out[:, 0]
            log_p = _log_normal(grid[None], t1[:, None], 1.0) + likelihood[child]
            u = rng.random((1, n) if observed[0] else (n, 1))
            out[:, 1 + child] = draw_on_grid(grid[0], TREE_STEP, log_p, u).ravel()
    means = np.concatenate([_tree_means(out[:, 1], 0), _tree_means(out[:, 2], 1)], 1)
    x = means + np.array(TREE_NOISE) * rng.standard_normal((n, 4))
    out[:, 3:] = np.where(observed[3:], out[:, 3:], x)
    return out


HMM_STEP, HMM_END, HMM_SD, HMM_REACH = 0.01, 9.5, 0.5, 3.0


def hmm_rows(observed: np.ndarray, value: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    out = np.repeat(value[None], n, 0)
    grid = np.arange(-HMM_END, HMM_END + HMM_STEP / 2, HMM_STEP)
    reach = round(HMM_REACH / HMM_STEP)
    kernel = np.exp(_log_normal(HMM_STEP * np.arange(-reach, reach + 1), 0.0, HMM_SD))
    filtered: list[np.ndarray] = []  # log p(t_i, x_0 … x_i) on the grid, up to a constant
    for i in range(10):
        before = 0.0 if i == 0 else float(value[i - 1])
        if i == 0 or observed[i - 1]:
            log_p = _log_normal(grid, before, HMM_SD)
        else:
            last = np.exp(filtered[-1] - filtered[-1].max())
            log_p = np.log(np.maximum(np.convolve(last, kernel, mode="same"), 1e-300))
        if observed[10 + i]:
            log_p = log_p + _log_normal(value[10 + i], grid**2, HMM_SD)
        filtered.append(log_p)
    width = 2 * reach + 1
    for i in range(9, -1, -1):
        if observed[i]:
            continue
        if i == 9 or observed[i + 1]:
            after = 0.0 if i == 9 else _log_normal(grid, value[i + 1], HMM_SD)
            out[:, i] = draw_on_grid(grid[0], HMM_STEP, (filtered[i] + after)[None], rng.random((1, n)))[0]
            continue
        following = out[:, i + 1]
        centre = np.round((following - grid[0]) / HMM_STEP).astype(int)
        first = np.clip(centre - reach, 0, len(grid) - width)
        place = first[:, None] + np.arange(width)
        log_p = filtered[i][place] + _log_normal(grid[place], following[:, None], HMM_SD)
        out[:, i] = draw_on_grid(grid[first], HMM_STEP, log_p, rng.random((n, 1)))[:, 0]
    x = out[:, :10] ** 2 + 0.5 * rng.standard_normal((n, 10))
    out[:, 10:] = np.where(observed[10:], out[:, 10:], x)
    return out


def _moon_noise(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(r cos a, r sin a)."""
    radius, angle = 0.1 + 0.01 * rng.standard_normal(n), math.pi * (rng.random(n) - 0.5)
    return radius * np.cos(angle), radius * np.sin(angle)


def _moon_log_density(rows: np.ndarray) -> np.ndarray:
    """log p(x | θ) of rows (…, 4) of (θ₁, θ₂, x₁, x₂), up to a constant; −inf off the half ring and the prior's box.

    The noise has density N(r; 0.1, 0.01²)/(π r) on c > 0 (a radius below 0 lies ten sds away).
    """
    first, second, x1, x2 = np.moveaxis(rows, -1, 0)
    c, e = x1 - 0.25 + np.abs(first + second) / ROOT2, x2 - (second - first) / ROOT2
    radius = np.maximum(np.hypot(c, e), 1e-12)
    inside = (c > 0) & (np.abs(first) < 1) & (np.abs(second) < 1)
    return np.where(inside, _log_normal(radius, 0.1, 0.01) - np.log(radius), -np.inf)


def _single_moon(observed: np.ndarray, value: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) draws of the only latent."""
    latent = int(np.flatnonzero(~observed)[0])
    low, high = -1.0, 1.0
    if latent >= 2:
        s, d = abs(value[0] + value[1]) / ROOT2, (value[1] - value[0]) / ROOT2
        centre = 0.25 - s if latent == 2 else d
        low, high = centre - 0.2, centre + 0.2
    points = np.linspace(low, high, 100_001)
    rows = np.repeat(value[None], len(points), 0)
    rows[:, latent] = points
    log_p = _moon_log_density(rows)
    return draw_on_grid(low, (high - low) / 100_000, log_p[None], rng.random((1, n)))[0]


def _moon_candidates(observed: np.ndarray, value: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Accepted rows among n candidates, where x is observed at least in part and two or more ids are latent."""
    c, e = _moon_noise(n, rng)
    sign = np.where(rng.random(n) < 0.5, 1.0, -1.0)
    u, uniform = rng.random(n), 2 * rng.random(n) - 1
    s = sign * (0.25 + c - value[2]) if observed[2] else np.full(n, np.nan)
    d = value[3] - e if observed[3] else np.full(n, np.nan)
    keep = sign * s >= 0 if observed[2] else np.ones(n, dtype=bool)
    if observed[0] or observed[1]:  # the other is uniform on a line: one equation of x fixes it
        first, second = np.full(n, value[0]), np.full(n, value[1])
        if observed[0]:
            second = ROOT2 * s - first if observed[2] else ROOT2 * d + first
        else:
            first = ROOT2 * s - second if observed[2] else second - ROOT2 * d
        keep &= (np.abs(first) < 1) & (np.abs(second) < 1)
        s, d = (first + second) / ROOT2, (second - first) / ROOT2
    elif observed[2] and observed[3]:
        keep &= np.abs(s) + np.abs(d) < ROOT2
    else:  # one coordinate of (s, d) is fixed, the other uniform over what the square leaves, in proportion to it
        room = ROOT2 - np.abs(s if observed[2] else d)
        keep &= u * ROOT2 < room
        s, d = (s, uniform * room) if observed[2] else (uniform * room, d)
    theta = np.stack([(s - d) / ROOT2, (s + d) / ROOT2], 1)
    x = np.stack([0.25 + c - np.abs(s), d + e], 1)
    rows: np.ndarray = np.where(observed, value, np.concatenate([theta, x], 1))[keep]
    return rows


def two_moons_rows(observed: np.ndarray, value: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    out = np.repeat(value[None], n, 0)
    if not observed[2:].any():
        out[:, :2] = np.where(observed[:2], out[:, :2], 2 * rng.random((n, 2)) - 1)
        c, e = _moon_noise(n, rng)
        out[:, 2] = 0.25 + c - np.abs(out[:, 0] + out[:, 1]) / ROOT2
        out[:, 3] = e + (out[:, 1] - out[:, 0]) / ROOT2
    elif (~observed).sum() == 1:
        out[:, np.flatnonzero(~observed)[0]] = _single_moon(observed, value, n, rng)
    else:
        found, have = [], 0
        for _ in range(10_000):
            found.append(_moon_candidates(observed, value, 4 * n, rng))
            have += len(found[-1])
            if have >= n:
                break
        else:
            raise ValueError(f"two_moons: {have} of {n} draws accepted; the observation {value[observed]} is too rare.")
        out = np.concatenate(found)[:n]
    return out
