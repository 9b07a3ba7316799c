"""The schema: JSON round trip, ids, the moral graph, and what is refused at the door."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsimformer.graph import moral_graph, past_only
from fsimformer.priors import (
    POSITIVE,
    PRIORS,
    REAL,
    LogitNormal,
    LogNormal,
    LogUniform,
    Normal,
    Support,
    TruncatedNormal,
    Uniform,
)
from fsimformer.schema import Components, Index, Noise, Schema, Variable

FULL = Schema(
    (
        Variable("a", "parameter", prior=Normal(1, 2)),
        Variable("b", "parameter", ("part",), prior=Uniform(-3, 3)),
        Variable("s", "parameter", prior=LogNormal(-1, 0.3)),
        Variable("g", "parameter", prior=TruncatedNormal(1, 0.5, 0.0)),
        Variable("beta", "parameter", ("time",), prior=LogitNormal(0, 1, 0, 2)),
        Variable("free", "parameter"),
        Variable("y", "data", ("time",), support=POSITIVE, noise=Noise("lognormal", "s"), parents=("a", "beta")),
        Variable("f", "data", ("part", "x", "time"), noise=Noise("normal", 0.1), parents=("b",)),
        Variable("unit", "data", support=Support(0, 1)),
    ),
    (Index("time", 0, 20, "days", "2020-01-01"), Components("part", 3), Index("x", -1, 1)),
)


def test_json_round_trip_is_the_identity() -> None:
    text = json.dumps(FULL.to_dict(), allow_nan=False)  # infinities must not become JSON's "Infinity"
    assert Schema.from_dict(json.loads(text)) == FULL


numbers = st.floats(-1e6, 1e6)
supports = st.one_of(
    st.just(REAL),
    numbers.map(lambda x: Support(x)),
    st.tuples(numbers, st.floats(1e-3, 1e3)).map(lambda x: Support(x[0], x[0] + x[1])),
)


@given(st.lists(st.tuples(st.sampled_from(["parameter", "data"]), supports), min_size=1, max_size=5))
def test_json_round_trip_keeps_every_support_infinite_ends_too(entries: list[tuple[Any, Support]]) -> None:
    schema = Schema(tuple(Variable(f"v{i}", role, support=s) for i, (role, s) in enumerate(entries)))
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict(), allow_nan=False))) == schema


@pytest.mark.parametrize("prior", [c() for c in PRIORS.values()])
def test_every_prior_makes_the_round_trip_and_gives_its_support(prior: Any) -> None:
    schema = Schema((Variable("v", "parameter", prior=prior),))
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    assert schema["v"].support == prior.support


def test_ids_number_variables_in_order_a_vector_by_component() -> None:
    assert [list(FULL.ids(v.name)) for v in FULL.variables] == [
        [0], [1, 2, 3], [4], [5], [6], [7], [8], [9, 10, 11], [12],
    ]  # fmt: skip
    assert FULL.n_ids == 13
    for v in FULL.variables:
        assert all(FULL.variable_of(i) is v for i in FULL.ids(v.name))
    assert FULL.component_dim("f") == "part" and FULL.component_dim("y") is None
    assert FULL.index_dims("f") == ("x", "time")  # the variable's own order, components left out
    assert [i.name for i in FULL.indexes] == ["time", "x"]
    assert [v.name for v in FULL.variables if FULL.is_function(v.name)] == ["beta", "y", "f"]


def test_uses_index_says_where_each_id_lives() -> None:
    expected = np.zeros((13, 2), dtype=bool)
    expected[[6, 8], 0] = True  # beta, y: time
    expected[9:12] = True  # f: time and x
    np.testing.assert_array_equal(FULL.uses_index(), expected)


def test_dependency_is_the_moral_graph_worked_by_hand() -> None:
    """a → x ← b, a → d → y, c alone, v of two components → y: parents are married, grandparents are not."""
    schema = Schema(
        (
            Variable("a", "parameter"),
            Variable("b", "parameter"),
            Variable("c", "parameter"),
            Variable("d", "parameter", parents=("a",)),
            Variable("v", "parameter", ("part",)),
            Variable("x", "data", parents=("a", "b")),
            Variable("y", "data", parents=("d", "v")),
        ),
        (Components("part", 2),),
    )
    rows = {  #   a b c d v v x y
        "a ": "1 1 0 1 0 0 1 0",
        "b ": "1 1 0 0 0 0 1 0",
        "c ": "0 0 1 0 0 0 0 0",
        "d ": "1 0 0 1 1 1 0 1",
        "v0": "0 0 0 1 1 1 0 1",
        "v1": "0 0 0 1 1 1 0 1",
        "x ": "1 1 0 0 0 0 1 0",
        "y ": "0 0 0 1 1 1 0 1",
    }
    np.testing.assert_array_equal(moral_graph(schema), graph_of(rows))
    np.testing.assert_array_equal(moral_graph(FULL), moral_graph(FULL).T)


def test_what_may_be_no_token_parts_nothing() -> None:
    """θ → x1 → x2: without a reading of x1, x2 alone must tell of θ. f(t) → x(t), f → y(t), s → y: f is never whole."""
    chain = (Variable("theta", "parameter"), Variable("x1", "data", parents=("theta",)))
    assert moral_graph(Schema((*chain, Variable("x2", "data", parents=("x1",))))).all()
    series = [Variable(k, "data", ("t",), parents=p) for k, p in (("x", ("f",)), ("y", ("f", "s")))]
    schema = Schema((Variable("f", "parameter", ("t",)), Variable("s", "parameter"), *series), (Index("t", 0, 1),))
    assert moral_graph(schema).all()
    scalar = moral_graph(Schema((Variable("f", "parameter"), Variable("s", "parameter"), *series), (Index("t", 0, 1),)))
    assert not scalar[2, 3] and not scalar[2, 1]  # given a scalar f they are independent


def test_readings_of_a_determined_path_part_given_the_parents() -> None:
    """y(t) = f(t; a, b) + noise of sd s: readings hang on a, b, s alone. With a function among the parents they do not:
    it is never whole, so that one reading tells of another."""
    y = Variable("y", "data", ("t",), noise=Noise("normal", "s"), parents=("a",), determined=True)
    schema = Schema((Variable("a", "parameter"), Variable("s", "parameter"), y), (Index("t", 0, 1),))
    np.testing.assert_array_equal(moral_graph(schema), graph_of({"a": "1 1 1", "s": "1 1 1", "y": "1 1 0"}))
    f = Variable("f", "parameter", ("t",))
    y = Variable("y", "data", ("t",), parents=("f",), determined=True, past_of=("f",))
    schema = Schema((f, y), (Index("t", 0, 1),))
    assert moral_graph(schema).all()
    np.testing.assert_array_equal(past_only(schema), graph_of({"f": "0 0", "y": "1 0"})[None])
    space = Schema((f, y), (Index("x", 0, 1), Index("t", 0, 1)))  # the order is that of the variable's own dim
    assert not past_only(space)[0].any() and past_only(space)[1].sum() == 1
    z = Variable("z", "data", ("t",), parents=("f", "y"))  # joins f(s) to y(t) whatever their order
    assert not past_only(Schema((f, y, z), (Index("t", 0, 1),))).any()


def test_a_parent_that_hangs_on_its_child_has_no_past_of_its_own() -> None:
    f = Variable("f", "parameter", ("t",), parents=("y",))
    y = Variable("y", "data", ("t",), parents=("f",), past_of=("f",))
    with pytest.raises(ValueError, match="past_of .'f'. hang on 'y' in turn"):
        Schema((f, y), (Index("t", 0, 1),))


@pytest.mark.parametrize(
    ("name", "dims", "changes", "message"),
    [
        ("y", (), {"determined": True}, "only a series is determined by its parents, got dims"),
        ("y", ("t",), {"past_of": ("f",)}, "past_of names .'f'., not among parents"),
        ("y", ("t",), {"parents": ("a",), "past_of": ("a",)}, "needs one first index dim for both, got"),
        ("y", ("u",), {"parents": ("f",), "past_of": ("f",)}, "needs one first index dim for both, got"),
    ],
    ids=["scalar", "no parent", "scalar parent", "other dim"],
)
def test_what_needs_an_index_is_refused_without_one(
    name: str, dims: tuple[str, ...], changes: dict[str, Any], message: str
) -> None:
    known = (Variable("a", "parameter"), Variable("f", "parameter", ("t",)))
    with pytest.raises(ValueError, match=message):
        Schema((*known, Variable(name, "data", dims, **changes)), (Index("t", 0, 1), Index("u", 0, 1)))


def graph_of(rows: dict[str, str]) -> np.ndarray:
    return np.array([[int(x) for x in r.split()] for r in rows.values()], dtype=bool)


def vectors(*variables: Variable, **sizes: int) -> Schema:
    return Schema(variables, tuple(Components(name, size) for name, size in sizes.items()))


def test_an_elementwise_child_joins_pairs_only() -> None:
    """θ_i → x_i, i = 1, 2, with independent θ_i: two pairs. With a scale s that both share, s joins all of them."""
    theta = Variable("theta", "parameter", ("n",), blocks=2)
    x = Variable("x", "data", ("m",), parents=("theta",), blocks=2, blockwise=("theta",))
    pairs = {"θ1": "1 0 1 0", "θ2": "0 1 0 1", "x1": "1 0 1 0", "x2": "0 1 0 1"}
    np.testing.assert_array_equal(moral_graph(vectors(theta, x, n=2, m=2)), graph_of(pairs))
    s = Variable("s", "parameter")
    x = Variable("x", "data", ("m",), parents=("theta", "s"), blocks=2, blockwise=("theta",))
    expected = {"θ1": "1 0 1 1 0", "θ2": "0 1 1 0 1", "s ": "1 1 1 1 1", "x1": "1 0 1 1 0", "x2": "0 1 1 0 1"}
    np.testing.assert_array_equal(moral_graph(vectors(theta, s, x, n=2, m=2)), graph_of(expected))
    together = Variable("theta", "parameter", ("n",))  # a prior that ties θ1 to θ2 adds their edge and no other
    expected = {"θ1": "1 1 1 0", "θ2": "1 1 0 1", "x1": "1 0 1 0", "x2": "0 1 0 1"}
    x = Variable("x", "data", ("m",), parents=("theta",), blocks=2, blockwise=("theta",))
    np.testing.assert_array_equal(moral_graph(vectors(together, x, n=2, m=2)), graph_of(expected))


def test_blocks_part_repeated_draws_and_marry_their_parents() -> None:
    """Two draws of two numbers each given all of θ: x1 x2 | x3 x4; θ1 and θ2 have a child in common."""
    theta = Variable("theta", "parameter", ("n",), blocks=2)
    schema = vectors(theta, Variable("x", "data", ("m",), parents=("theta",), blocks=2), n=2, m=4)
    expected = {
        "θ1": "1 1 1 1 1 1",
        "θ2": "1 1 1 1 1 1",
        "x1": "1 1 1 1 0 0",
        "x2": "1 1 1 1 0 0",
        "x3": "1 1 0 0 1 1",
        "x4": "1 1 0 0 1 1",
    }
    np.testing.assert_array_equal(moral_graph(schema), graph_of(expected))


def test_blocks_are_the_zeros_of_the_exact_precision_of_a_gaussian() -> None:
    """θ (4, independent), s; x_i on θ_i and s; y in two blocks of three on the halves of θ; w in two blocks on s.

    v = B v + ε with ε ~ N(0, D): precision (I − B)ᵀ D⁻¹ (I − B); an edge is an entry that is not zero.
    """
    schema = vectors(
        Variable("theta", "parameter", ("four",), blocks=4),
        Variable("s", "parameter"),
        Variable("x", "data", ("quad",), parents=("theta", "s"), blocks=4, blockwise=("theta",)),
        Variable("y", "data", ("six",), parents=("theta",), blocks=2, blockwise=("theta",)),
        Variable("w", "data", ("duo",), parents=("s",), blocks=2),
        four=4,
        quad=4,
        six=6,
        duo=2,
    )
    theta, s, x, y, w = (list(schema.ids(n)) for n in schema.names)
    rng, n = np.random.default_rng(0), schema.n_ids
    weights, noise = np.zeros((n, n)), np.eye(n)
    for i in range(4):
        weights[x[i], [theta[i], s[0]]] = rng.uniform(0.5, 2, 2)
    for half, block in ((theta[:2], y[:3]), (theta[2:], y[3:])):
        weights[np.ix_(block, half)] = rng.uniform(0.5, 2, (3, 2))
        root = rng.standard_normal((3, 3))
        noise[np.ix_(block, block)] += root @ root.T
    weights[w, s[0]] = rng.uniform(0.5, 2, 2)
    a = np.eye(n) - weights
    precision = a.T @ np.linalg.inv(noise) @ a
    np.testing.assert_array_equal(moral_graph(schema), np.abs(precision) > 1e-12)


def test_a_file_without_blocks_is_read_as_one_block() -> None:
    data = FULL.to_dict()
    for entry in data["variables"]:
        assert (entry.pop("blocks"), entry.pop("blockwise")) == (1, [])
    assert Schema.from_dict(data) == FULL
    theta = Variable("theta", "parameter", ("n",), blocks=2)
    x = Variable("x", "data", ("m",), parents=("theta",), blocks=2, blockwise=("theta",))
    schema = vectors(theta, x, n=2, m=4)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": 0}, "'x': expected blocks >= 1, got 0"),
        ({"blocks": 3}, r"'x': 3 blocks do not divide its 4 component\(s\)"),
        ({"dims": (), "blocks": 2}, r"'x': only a vector has blocks, got 2 with dims \(\)"),
        ({"dims": ("m", "t"), "blocks": 2}, r"'x': only a vector has blocks, got 2 with dims \('m', 't'\)"),
        ({"blocks": 4, "blockwise": ("theta",)}, r"'x': 4 blocks do not divide its blockwise parent 'theta' of 2"),
        ({"blocks": 2, "blockwise": ("s",)}, r"'x': 2 blocks do not divide its blockwise parent 's' of 1 component"),
        ({"blockwise": ("theta",)}, r"'x': blockwise parents \('theta',\) need blocks > 1"),
        ({"blocks": 2, "blockwise": ("u",)}, r"'x': blockwise names \['u'\], not among parents \('theta', 's'\)"),
    ],
)
def test_blocks_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    x = {"name": "x", "role": "data", "dims": ("m",), "parents": ("theta", "s"), **changes}
    parents = (Variable("theta", "parameter", ("n",)), Variable("s", "parameter"))
    with pytest.raises(ValueError, match=message):
        Schema((*parents, Variable(**x)), (Components("n", 2), Components("m", 4), Index("t", 0, 1)))


def test_supports_are_open() -> None:
    np.testing.assert_array_equal(Support(0, 1).contains(np.array([0, 0.5, 1, np.nan])), [False, True, False, False])
    assert str(POSITIVE) == "(0, inf)"


def two(**changes: Any) -> Schema:
    """A schema of a scalar `a` and a function `y`, whose fields are changed."""
    y = {"name": "y", "role": "data", "dims": ("time",), **changes}
    return Schema((Variable("a", "parameter"), Variable(**y)), (Index("time", 0, 1), Components("c", 2)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Index("t", 1, 1), r"Index 't': expected finite lower < upper, got \[1, 1\]"),
        (lambda: Index("t", 0, math.inf), r"Index 't': expected finite lower < upper, got \[0, inf\]"),
        (lambda: Components("c", 0), "Components 'c': expected size >= 1, got 0"),
        (lambda: Support(2, 1), r"Support: expected lower < upper, got \(2, 1\)"),
        (lambda: Support(-math.inf, 0), "only an upper end is not offered"),
        (lambda: Noise("gamma", 1.0), "Noise: unknown kind 'gamma'. Choices: 'normal', 'lognormal'"),  # type: ignore[arg-type]
        (lambda: LogUniform(0.0, 1.0), r"LogUniform: expected 0 < lower < upper, finite, got \(0.0, 1.0\)"),
        (lambda: Noise("normal", 0.0), "Noise: expected sd > 0 or a parameter's name, got 0.0"),
        (lambda: Noise("normal", math.nan), "Noise: expected sd > 0 or a parameter's name, got nan"),
        (lambda: two(role="latent"), "Variable 'y': unknown role 'latent'. Choices: 'parameter', 'data'"),
        (lambda: two(prior=Normal(), support=POSITIVE), r"'y': support \(0, inf\) contradicts its prior's \(-inf"),
        (
            lambda: two(prior=LogNormal(0, -1)),
            r"'y': expected a prior with scale > 0, got LogNormal\(loc=0, scale=-1\)",
        ),
        (lambda: two(prior=Uniform(1, 1)), r"Support: expected lower < upper, got \(1, 1\)"),
        (lambda: two(noise=Noise("lognormal", 0.1)), "'y': log-normal noise needs .*positive support"),
        (lambda: two(name="a"), r"every variable and dim needs a name of its own, got \['a', 'a', 'time', 'c'\]"),
        (lambda: two(name="time"), "needs a name of its own"),
        (lambda: two(dims=("place",)), r"'y': unknown dim 'place'. Dims of the schema: \['c', 'time'\]"),
        (lambda: two(dims=("c", "c")), "'y': at most one Components dim"),
        (lambda: two(noise=Noise("normal", "sd")), "'y': its noise names 'sd', which is no scalar variable"),
        (lambda: two(noise=Noise("normal", "y")), "'y': its noise names 'y', which is no scalar variable"),
        (lambda: two(parents=("b",)), r"'y': unknown parent 'b'. Variables: \['a', 'y'\]"),
    ],
)
def test_what_makes_no_schema_says_why(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": (), "noise": Noise("normal", 0.1)}, "'y': noise is added where a series is read; .* no Index dim"),
        ({"prior": Normal(), "noise": Noise("normal", 0.1)}, "'y': .*noise.* no prior"),
        ({"support": Support(0, 1), "noise": Noise("lognormal", 0.1)}, r"'y': log-normal noise .* got \(0, 1\)"),
        ({"support": Support(2), "noise": Noise("lognormal", 0.1)}, r"'y': log-normal noise .* got \(2, inf\)"),
        ({"support": Support(0, 1), "noise": Noise("normal", 0.1)}, r"'y': normal noise can leave .* \(0, 1\)"),
        ({"dims": ("time", "time")}, "'y': a dim is named twice"),
    ],
)
def test_noise_that_would_be_dropped_or_wrong_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two(**changes)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"No variable named 'z'. Variables: \['a', 'y'\]"):
        two()["z"]
    with pytest.raises(KeyError, match=r"No dim named 'z'. Dims: \['time', 'c'\]"):
        two().dim("z")
    with pytest.raises(KeyError, match="No variable id 7. There are 2"):
        two().variable_of(7)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ((), "Schema: unknown keys .*'extra'.*Known keys"),
        (("variables", 0), "Variable: unknown keys .*'extra'"),
        (("variables", 0, "support"), "Support: unknown keys .*'extra'"),
        (("variables", 0, "prior"), "Normal: unknown keys .*'extra'"),
        (("variables", 6, "noise"), "Noise: unknown keys .*'extra'"),
        (("dims", 0), "Index: unknown keys .*'extra'"),
    ],
)
def test_an_unknown_key_raises_at_every_level(path: tuple[Any, ...], message: str) -> None:
    data = FULL.to_dict()
    entry = data
    for key in path:
        entry = entry[key]
    entry["extra"] = 1
    with pytest.raises(ValueError, match=message):
        Schema.from_dict(data)


def test_unknown_kinds_list_the_choices() -> None:
    data = FULL.to_dict()
    data["variables"][0]["prior"]["kind"] = "Cauchy"
    with pytest.raises(
        ValueError, match=r"Unknown prior 'Cauchy'. Choices: \['LogNormal', 'LogUniform', 'LogitNormal'"
    ):
        Schema.from_dict(data)
    data = FULL.to_dict()
    data["dims"][0]["kind"] = "Grid"
    with pytest.raises(ValueError, match=r"Unknown dim 'Grid'. Choices: \['Axis', 'Components', 'Index'\]"):
        Schema.from_dict(data)
