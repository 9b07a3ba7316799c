"""diffrax's side of solvers.py; no torch. Arguments: task, npz given, npz found, rtol, atol, repeats, n."""

from __future__ import annotations

import json
import sys
import time

import diffrax
import jax
import numpy as np

jax.config.update("jax_enable_x64", True)


def main(task: str, given: str, found: str, rtol: float, atol: float, repeats: int, n_kept: int) -> None:
    p = {k: jax.numpy.asarray(x) for k, x in np.load(given).items()}
    np_, grid = jax.numpy, p["grid"]
    if task == "lotka_volterra":
        each = [p[k] for k in ("alpha", "beta", "gamma", "delta")]

        def field(t, y, args):
            a, b, c, d = args
            return np_.stack([a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]])

        starts = np_.broadcast_to(p["start"], (len(each[0]), 2))
    else:
        each = [p[k] for k in ("recovery_rate", "death_rate", "contact")]

        def field(t, y, args):
            c, d, contact = args
            new = np_.interp(t, p["nodes"], contact) * y[0] * y[1]
            return np_.stack([-new, new - (c + d) * y[1], c * y[1], d * y[1]])

        infected = p["initial_infected"]
        starts = np_.stack([np_.ones_like(infected), infected, 0 * infected, 0 * infected], 1)

    def one(start, *args):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(), grid[0], grid[-1], None, start, args,
            saveat=diffrax.SaveAt(ts=grid), stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        ).ys  # fmt: skip

    solve = jax.jit(jax.vmap(one))
    solve(starts, *each).block_until_ready()  # compiles
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        ys = solve(starts, *each).block_until_ready()
        seconds.append(time.process_time() - start)
    y = np.asarray(ys[:n_kept]).swapaxes(1, 2)
    np.savez(found, y=y if task == "lotka_volterra" else y[:, 1:])
    print(json.dumps({"n": len(starts), "per_second": len(starts) / min(seconds)}))


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(float, sys.argv[4:6]), *map(int, sys.argv[6:]))
