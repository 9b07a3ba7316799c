"""The comparison with other packages says why a method has no figures, and what it measured if it has."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fsimformer import learn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

METHODS = """
import sys
sys.path.insert(0, {path!r})
import numpy as np
from peers_fit import serve

def exact(problem):
    rng = np.random.default_rng(problem.seed)
    return lambda x, n: x + rng.standard_normal((n, problem.theta.shape[1]))

def raises(problem):
    raise ValueError("no such network")

def trains_for_ever(problem):
    while True:
        pass

def draws_for_ever(problem):
    sample = exact(problem)
    return lambda x, n: sample(x, n) if x[0] == 0 else trains_for_ever(problem)

serve(dict(exact=exact, raises=raises, trains_for_ever=trains_for_ever, draws_for_ever=draws_for_ever), ["numpy"])
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    script = tmp_path / "methods.py"
    script.write_text(METHODS.format(path=str(BENCHMARKS)))
    source = tmp_path / "in.npz"
    np.savez(
        source, task="two_moons", theta=np.zeros((9, 2)), x=np.zeros((9, 2)), observations=[[0.0, 0.0], [5.0, 5.0]]
    )
    monkeypatch.setattr(peers, "CACHE", tmp_path)
    monkeypatch.setattr(peers, "simulations", lambda task, budget, seed: source)
    names = ("exact", "raises", "trains_for_ever", "draws_for_ever")
    monkeypatch.setattr(peers, "SCRIPTS", dict.fromkeys(names, str(script)))
    return lambda method: peers.run(method, "two_moons", 1_000, 3, sys.executable, 2)


def test_a_method_that_works_leaves_its_draws_and_seconds(run):
    failure, target = run("exact")
    assert failure is None
    found = np.load(target)
    assert found["draws"].shape == (2, 1_000, 2)
    np.testing.assert_allclose(found["draws"].mean((1, 2)), [0.0, 5.0], atol=0.1)
    assert found["sample_cpu_seconds"].shape == (2,) and found["train_cpu_seconds"] >= 0


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("raises", "failed: ValueError: no such network"),
        ("trains_for_ever", "CPU minutes while training"),
        ("draws_for_ever", "CPU minutes after 1 of 10 observations"),
    ],
)
def test_a_method_that_does_not_says_why(run, method, reason):
    assert reason in run(method)[0]


def test_scoring_without_draws_says_which_file_is_missing(run, tmp_path):
    import peers

    with pytest.raises(SystemExit, match=r"no draws kept in .*slcp_1000_npe_7\.npz"):
        peers.cell("npe", "slcp", 1_000, 7, sys.executable, 2, score=True)
    assert not list(tmp_path.glob("slcp_1000_npe_7*"))


def test_ours_is_the_suites_network_and_only_on_the_suites_simulations(monkeypatch):
    """The file of simulations that all peers read holds the rows sbibm.py trains on; other rows are refused."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers_ours
    import sbibm
    from peers_fit import Problem

    asked = []
    joint = SimpleNamespace(provenance={"cpu_seconds": 12.5})
    monkeypatch.setattr(peers_ours, "trained", lambda *cell: asked.append(cell) or joint)
    drawn = {}

    def store(schema, whitening, values, natural, spread):
        drawn.update(values)
        raise KeyboardInterrupt

    monkeypatch.setattr(learn, "build_store", store)
    with pytest.raises(KeyboardInterrupt):
        learn.train(sbibm.two_moons(), **sbibm.settings(1_000, 3, "default"))
    problem = Problem("two_moons", drawn["theta"].numpy(), drawn["x"].numpy(), 3)
    assert peers_ours.ours(problem).cpu_seconds == 12.5 and asked == [("two_moons", 1_000, 3, "default")]
    noise = []
    monkeypatch.setattr(peers_ours, "posterior_draws", lambda joint, x, n, seed: noise.append(seed))
    dense = peers_ours.ours(problem, "dense")
    assert asked[1:] == [("two_moons", 1_000, 3, "dense")]
    for _ in range(2):
        dense.sample(problem.x[0], 9)
    assert noise == [3_000, 3_001]  # observations do not share theirs
    with pytest.raises(ValueError, match="x of the 1000 simulations are not those of sbibm.py"):
        peers_ours.ours(Problem("two_moons", problem.theta, problem.x[::-1], 3))


def test_the_table_has_a_row_for_each_method_and_a_reason_for_each_failure(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_peers import peers

    floor = {"c2st_rf_mean": 0.501, "c2st_mlp_mean": 0.499}
    common = {"task": "slcp", "floor": floor}
    good = common | {
        "method": "npe", "simulations": 1_000, "c2st_rf_mean": 0.9, "c2st_rf_se": 0.01, "c2st_mlp_mean": 0.8,
        "c2st_mlp_se": 0.02, "train_cpu_seconds": 33.3, "sample_cpu_seconds": [0.25] * 10,
    }  # fmt: skip
    bad = common | {"method": "gensbi", "simulations": 10_000, "failure": "failed: no wheel"}
    text = "\n".join(peers([
        {"seed": 0, "versions": {}, "results": bad}, {"seed": 0, "versions": {"sbi": "0.27.0"}, "results": good},
    ]))  # fmt: skip
    assert "floor RF 0.501, MLP 0.499" in text
    row = "| NPE (NSF) | sbi 0.27.0 | 0 | 0.900 ± 0.010 | – | 0.800 ± 0.020 | – | 33 / – | 2.5 / – |"
    assert row in text
    assert (
        "| Simformer, EDM † | gensbi | 0 | – | (1) | – | (1) | – / – | – / – |" in text
        and "(1) failed: no wheel" in text
    )
    assert text.index("NPE (NSF)") < text.index("Simformer, EDM")
