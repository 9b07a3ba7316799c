"""What a GPU is used for: attention by length, share of the peak in training, draws a second, simulators on the device.

- `attention`: forward and backward of one layer's attention over padded rows (half of the slots are real, at random
  lengths), 131,072 slots in all, 8 heads of 32 channels in bfloat16: `scaled_dot_product_attention` with a mask,
  `flex_attention` with a block mask, and rows packed end to end through nested tensors. TFLOP/s are of real tokens.
- `training`: forward and backward at width 256 and 512 in either precision, without the optimiser, 64 latents and 192
  readings a row: 6 × weights × tokens plus attention, over the peak that a product of 8,192² matrices reaches here
  (roofline: such a layer is bound by memory below 2 × peak/bandwidth FLOP a byte; both are stated).
- `draws`: two_moons, 100,000 draws by the network of 0.6 M weights, in either precision, by calls of 2²⁰ tokens;
  the observation is read before the clock starts.
- `simulators`: Lotka-Volterra and SIRD, 16,384 at a time, drawn from a generator on the device.

Wall seconds between synchronised calls, the median of five after two that do not count. `--device cpu` runs it at a
hundredth of the sizes, which shows that it runs and nothing more; nothing is written then.

    python benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from record import save
from speed import training_steps
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import fsimformer as fsf
from fsimformer.denoise import Denoiser
from fsimformer.nn import Network, NetworkConfig
from fsimformer.precision import PRECISIONS, precision_named
from fsimformer.simulators import SIRD, LotkaVolterra
from fsimformer.tokens import TokenBatch, split

HEADS, CHANNELS, SLOTS = 8, 32, 131_072
LENGTHS, WIDTHS = (50, 200, 1_000, 5_000), (256, 512)
LATENTS, READINGS = 64, 192


def seconds(call: Callable[[], object], device: str, n: int = 5) -> float:
    """Median wall seconds of a call, all work on the device done."""
    found = []
    for _ in range(n + 2):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return float(np.median(found[2:]))


def peak(device: str, small: bool) -> dict[str, float]:
    """TFLOP/s of a large product in bfloat16, GB/s of a large copy."""
    n = 512 if small else 8_192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in "ab")
    copied = torch.empty(2**20 if small else 2**30, dtype=torch.uint8, device=device)
    rate = 2 * n**3 / seconds(lambda: a @ b, device) / 1e12
    return {"tflops": rate, "gigabytes_a_second": 2 * len(copied) / seconds(copied.clone, device) / 1e9}


def backward(out: Tensor) -> None:
    out.sum().backward()


def attention(length: int, device: str, small: bool) -> list[dict[str, Any]]:
    """Rows of up to `length` tokens by each way that takes a mask; ways that this torch or device lacks are told."""
    b = max(1, SLOTS // length // (100 if small else 1))
    lengths = torch.randint(1, length + 1, (b,), generator=torch.Generator().manual_seed(0))
    valid = (torch.arange(length)[None] < lengths[:, None]).to(device)
    q, k, v = (torch.randn(b, HEADS, length, CHANNELS, device=device, dtype=torch.bfloat16, requires_grad=True)
               for _ in "qkv")  # fmt: skip
    flops = 3.5 * 4 * HEADS * CHANNELS * float((lengths.double() ** 2).sum())  # backward is 2.5 times forward
    bias = torch.zeros(b, 1, 1, length, device=device, dtype=torch.bfloat16).masked_fill_(~valid[:, None, None], -1e9)

    def masked() -> None:
        backward(scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(-1, HEADS, length, -1)))

    def flex() -> None:
        backward(compiled(q, k, v, block_mask=blocks))

    def packed() -> None:
        parts = (torch.nested.nested_tensor_from_jagged(x, offsets).transpose(1, 2) for x in flat)
        scaled_dot_product_attention(*parts).values().sum().backward()

    ways: dict[str, Callable[[], None]] = {"scaled_dot_product, masked": masked}
    if device == "cuda":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def within(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return valid[row, key]

        compiled = torch.compile(flex_attention)
        blocks = create_block_mask(within, b, None, length, length, device=device)
        ways["flex, block mask"] = flex
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to(device)
        shape, like = (int(lengths.sum()), HEADS, CHANNELS), {"device": device, "dtype": torch.bfloat16}
        flat = [torch.randn(shape, requires_grad=True, **like) for _ in "qkv"]
        ways["scaled_dot_product, packed"] = packed
    rows = []
    for way, call in ways.items():
        try:
            took = seconds(call, device)
            rows.append(
                {"length": length, "rows": b, "way": way, "milliseconds": 1e3 * took, "tflops": flops / took / 1e12}
            )
        except (RuntimeError, NotImplementedError) as error:
            rows.append({"length": length, "rows": b, "way": way, "failed": str(error).splitlines()[0]})
        print(rows[-1], flush=True)
    return rows


def training(width: int, precision: str, device: str, small: bool, top: float) -> dict[str, Any]:
    """One forward and backward pass of the loss; four noise levels a context."""
    b, levels = (4, 2) if small else (512, 4)
    network = Network(NetworkConfig(((False,), (True,)), width=width, depth=6, n_heads=width // CHANNELS)).to(device)
    network.precision = precision_named(precision)
    denoiser, n = Denoiser(network).to(device), LATENTS + READINGS
    g = torch.Generator().manual_seed(0)
    batch = TokenBatch(
        torch.ones(b, n, dtype=torch.long), torch.rand(b, n, 1, generator=g) * 2 - 1, torch.randn(b, n, generator=g),
        (torch.arange(n) >= LATENTS).expand(b, n).clone(), torch.ones(b, n, dtype=torch.bool),
    )  # fmt: skip
    streams = split(batch, 0).to(device)
    ratio, epsilon = torch.randn(b, levels, device=device), torch.randn(b, levels, LATENTS, device=device)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        denoiser.loss(streams, ratio, epsilon).backward()

    took = seconds(step, device)
    weights = sum(p.numel() for layer in network.layers for p in layer.parameters())
    last = network.layers[-1]  # of frozen tokens it makes keys and values alone
    spared = sum(p.numel() for p in last.parameters()) - sum(p.numel() for p in last.qkv.parameters())
    tokens = b * (READINGS + levels * LATENTS)
    pairs = b * (READINGS**2 + levels * LATENTS * n)
    pairs_spared = b * READINGS**2
    flops = 6 * (weights * tokens - spared * b * READINGS)
    flops += 3.5 * 4 * width * (network.config.depth * pairs - pairs_spared)
    row = {
        "width": width, "precision": precision, "rows": b, "tokens": tokens, "milliseconds": 1e3 * took,
        "tflops": flops / took / 1e12, "share_of_peak": flops / took / 1e12 / top,
    }  # fmt: skip
    print(row, flush=True)
    return row


def draws(device: str, small: bool) -> list[dict[str, Any]]:
    arguments = {k: v for k, v in training_steps()["two_moons, batch 256, 0.6 M parameters"].items() if k != "config"}
    joint = fsf.train(config=fsf.TrainConfig(steps=2, n_validation=64), **arguments)
    point, n, rows = {"x": xr.DataArray([0.0, 0.0], dims="x_dim")}, 1_000 if small else 100_000, []
    for precision in PRECISIONS:
        c, budget = joint.to(device, precision).condition(point, judge=False), fsf.Budget(max_tokens=2**20)
        took = seconds(lambda: c.sample(n, at={}, budget=budget), device)  # noqa: B023
        rows.append({"precision": precision, "draws": n, "seconds": took, "draws_a_second": n / took})
        print(rows[-1], flush=True)
    return rows


def simulators(device: str, small: bool) -> list[dict[str, Any]]:
    n, rows = 64 if small else 16_384, []
    for name, simulator in (("lotka_volterra", LotkaVolterra()), ("sird", SIRD())):
        generator = torch.Generator(device).manual_seed(0)
        try:
            rate = n / seconds(lambda: simulator.simulate(n, generator), device)  # noqa: B023
            rows.append({"simulator": name, "n": n, "a_second": rate})
        except RuntimeError as error:
            rows.append({"simulator": name, "n": n, "failed": str(error).splitlines()[0]})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu.py: torch finds no GPU here; --device cpu shows that the script runs.")
    small, top = args.device == "cpu", peak(args.device, args.device == "cpu")
    print(top, flush=True)
    results = {
        "peak": top,
        "attention": [row for length in LENGTHS for row in attention(length, args.device, small)],
        "training": [training(w, p, args.device, small, top["tflops"]) for w in WIDTHS for p in PRECISIONS],
        "draws": draws(args.device, small),
        "simulators": simulators(args.device, small),
        "n": 5,
        "monte_carlo_floor": None,
    }
    if not small:
        print(save("gpu", 0, results))


if __name__ == "__main__":
    main()
