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


def past_only(schema: Schema) -> np.ndarray:
    """Bool (n_ids, n_ids), [child, parent]: of the parent only the readings that are not later than the child's count.

    "Later" is along the first index dim of the child. The edge holds both ways: parent readings attend to children that
    are not earlier.
    """
    out = np.zeros((schema.n_ids, schema.n_ids), dtype=bool)
    for v in schema.variables:
        for p in v.past_of:
            out[np.ix_(list(schema.ids(v.name)), list(schema.ids(p)))] = True
    return out
