"""A check on one page of HTML: verdict, what was tested, pictures. One file, no scripts, nothing fetched.

Whatever is written into the page, names of variables and cards included, is escaped: a model from elsewhere cannot put
markup into it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
import xarray as xr

from fsimformer.plots_check import TITLES, figures

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .1rem .7rem; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.verdict { padding: .6rem 1rem; border-left: .4rem solid #009E73; background: #f5f5f5; }
.verdict.rejected { border-color: #D55E00; }
tr.rejected td { font-weight: 600; color: #B44E00; }
figure { display: inline-block; margin: .5rem; vertical-align: top; } img { max-width: 100%; }
figcaption { font-size: .85rem; color: #555; max-width: 26rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; } dt { color: #555; } dd { margin: 0; }
"""
_CAPTIONS = {
    "sbc": "Each curve is a parameter or a functional. Inside the band: uniform, as it should be. Up, then down: draws "
    "too narrow; down, then up: too wide; on one side: shifted.",
    "coverage": "Regions of each level should hold the truth that often. Below the diagonal: overconfident. Band: all "
    "of the curve of a calibrated model, with probability .95. Dots: two standard errors.",
    "tarp": "The same of balls about random points. Band: bootstrap over data sets, .95 for the whole curve; it should "
    "hold the diagonal.",
    "scores": "CRPS or energy score of the truth, less what draws score against each other. Right: draws too narrow or "
    "elsewhere; left: too wide.",
    "local": "Can a classifier tell draws from truths, at this very data set? Bars: .95 of the null, all together.",
    "predictive": "p-values of statistics of readings that were held out, given all others; uniform, as above.",
}
_CARD = ("simulator", "simulations", "steps", "seed", "commit", "date", "cpu_seconds", "n_parameters", "versions")


def report(tree: xr.DataTree, title: str, provenance: Mapping[str, Any] | None = None) -> str:
    """The page.

    Args:
        tree: what `Joint.check` returned.
        title: the model's name.
        provenance: the model's card; some of its entries are shown.

    Raises:
        KeyError: a tree without the groups of a check.
        ImportError: matplotlib is missing.
    """
    pictures = figures(tree)
    tests = tree["tests"].to_dataset()
    rejected = bool(tests["rejected"].any())
    parts = [
        f"<h1>Check of {escape(title)}</h1>",
        f'<p class="verdict{" rejected" if rejected else ""}">{escape(str(tree.attrs.get("verdict", "")))}.</p>',
        f"<p>{_number(tree.attrs.get('n_data_sets', '?'))} data sets that training never saw, "
        f"{_number(tree.attrs.get('n_draws', '?'))} draws each. p-values are adjusted (Holm) over all tests; a test of "
        "many data sets rejects small errors too: read how large they are from the pictures and from the coverage.</p>",
    ]
    if "coverage" in tree.children:
        parts += ["<h2>Coverage</h2>", _coverage(tree["coverage"].to_dataset())]
    parts.append("<h2>Pictures</h2>")
    for name, figure in pictures.items():
        held = BytesIO()
        figure.savefig(held, format="png", dpi=130)
        data = base64.b64encode(held.getvalue()).decode("ascii")
        parts.append(
            f'<figure><img alt="{escape(TITLES[name])}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(_CAPTIONS[name])}</figcaption></figure>"
        )
    parts += ["<h2>Tests</h2>", _tests(tests)]
    if skipped := tree.attrs.get("not_checked"):
        names = ", ".join(map(str, skipped))
        parts.append(f"<p>Not checked, being functions on several indexes: {escape(names)}.</p>")
    about = {k: v for k, v in tree.attrs.items() if k in ("seed", "network")}
    card = {f"model: {k}": (provenance or {})[k] for k in _CARD if k in (provenance or {})}
    parts += ["<h2>Provenance</h2>", _list({**about, **card})]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Check of {escape(title)}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _coverage(group: xr.Dataset) -> str:
    rows = zip(*(group[k].to_numpy() for k in ("nominal", "share", "standard_error")))
    cells = "".join(f"<tr><td>{p:g}</td><td>{share:.3f}</td><td>{error:.3f}</td></tr>" for p, share, error in rows)
    head = "<tr><th>level</th><th>share that holds the truth</th><th>standard error</th></tr>"
    return f"<table>{head}{cells}</table>"


def _tests(tests: xr.Dataset) -> str:
    """Rejected ones first, then by p-value."""
    order = np.lexsort((tests["p_value"].to_numpy(), ~tests["rejected"].to_numpy()))
    columns = ("effect", "shift", "dispersion", "p_value", "p_adjusted")
    head = "".join(f"<th>{escape(c.replace('_', ' '))}</th>" for c in ("test", *columns, "verdict"))
    rows = []
    for i in order:
        one = tests.isel(test=int(i))
        cells = "".join(f"<td>{_number(one[c].item())}</td>" for c in columns)
        verdict = "rejected" if one["rejected"].item() else ""
        rows.append(f'<tr class="{verdict}"><td>{escape(str(one["test"].item()))}</td>{cells}<td>{verdict}</td></tr>')
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _list(entries: Mapping[str, Any]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>' for k, v in entries.items())}</dl>"


def _number(x: Any) -> str:
    if isinstance(x, float):
        return "" if np.isnan(x) else f"{x:.3g}"
    return escape(str(x))
