"""Who may attend to whom by the structure of the simulator: the moral graph of a schema, and its order in time.

A moral graph joins parent and child, and any two parents of one child: what it does not join is independent given all
the rest (Lauritzen, Graphical Models, 1996). Attention needs no edge more, as long as the rest is there; what may be no
token in a row parts nothing, so its neighbours are joined.
"""

from __future__ import annotations

import numpy as np

from fsimformer.schema import Schema


def moral_graph(schema: Schema) -> np.ndarray:
    """Bool (n_ids, n_ids): the moral graph of `parents` and of the noise's `sd`, True = may attend.

    A variable sees itself (a function's readings share one path), unless its path is `determined` by its parents; so do
    a vector's components within a block (`Variable.blocks`). What may be no token in a row, data and functions between
    their points, parts none of its neighbours: they are joined. A False on the diagonal parts the readings of a series
    from each other; every token sees itself.
    """
    graph = np.eye(schema.n_ids, dtype=bool)
    for v in schema.variables:
        sd = [v.noise.sd] if v.noise is not None and isinstance(v.noise.sd, str) else []
        whole = [i for p in (*v.parents, *sd) if p not in v.blockwise for i in schema.ids(p)]
        cut = [np.split(np.array(schema.ids(name)), v.blocks) for name in (v.name, *v.blockwise)]
        for parts in zip(*cut):
            family = [*np.concatenate(parts), *whole]
            graph[np.ix_(family, family)] = True
    for v in schema.variables:
        if v.determined:
            own = list(schema.ids(v.name))
            graph[np.ix_(own, own)] = False
    for v in schema.variables:
        if v.role == "data" or schema.is_function(v.name):
            for i in schema.ids(v.name):
                graph |= np.outer(graph[i], graph[i])
    return graph


def truncated_graph(schema: Schema) -> np.ndarray:
    """The moral graph where the prior is truncated to a region of all scalar and vector parameters: they are joined.

    Independent before, θ₁ and θ₂ hang together inside a region that is no box, whatever else is given.
    """
    graph = moral_graph(schema)
    ids = [i for v in schema.variables if v.role == "parameter" and not schema.is_function(v.name)
           for i in schema.ids(v.name)]  # fmt: skip
    graph[np.ix_(ids, ids)] = True
    return graph


def require_connected(schema: Schema, dependency: str | None) -> None:
    """Refuses a mask under which data tell nothing of the parameters: the posterior would be the prior, silently.

    The moral graph must join every data variable, all its components, to some parameter, in any number of steps.

    Raises:
        ValueError: the names of data variables that are not, where the mask is not dense and there are parameters.
    """
    reached = np.zeros(schema.n_ids, dtype=bool)
    for v in schema.variables:
        reached[list(schema.ids(v.name))] = v.role == "parameter"
    if dependency in (None, "dense") or not reached.any():
        return
    graph = moral_graph(schema)
    while (wider := reached | graph[reached].any(0)).sum() > reached.sum():
        reached = wider
    if alone := [name for name in schema.data if not reached[list(schema.ids(name))].all()]:
        raise ValueError(
            f"dependency={dependency!r}: tokens attend along the edges that the schema states, and none lead from "
            f"{alone} to a parameter: given these data the posterior would be the prior. State the `parents` of "
            'these variables, or use dependency="dense".'
        )


def past_only(schema: Schema) -> np.ndarray:
    """Bool (index dims, n_ids, n_ids), [dim, child, parent]: of the parent only what is not later tells the child.

    "Later" is along the child's own first index dim. The parent still sees every reading of the child: where a function
    has no token, its neighbours stand for it, and an earlier y tells of it as a later one does. For the same reason the
    cut is exact only as far as the child's other readings, scalars or earlier tokens of the parent carry what a later
    token of the parent would have told; measure it against "undirected". Where the two have a child in common they
    are joined by it, and nothing is cut.
    """
    indexes = [i.name for i in schema.indexes]
    out = np.zeros((len(indexes), schema.n_ids, schema.n_ids), dtype=bool)
    for v in schema.variables:
        for p in v.past_of:
            if not any({v.name, p} <= set(w.parents) for w in schema.variables):
                dim = indexes.index(schema.index_dims(v.name)[0])
                out[dim][np.ix_(list(schema.ids(v.name)), list(schema.ids(p)))] = True
    return out
