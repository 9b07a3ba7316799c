"""benchmarks/infer_regions.py: the table is what it says, and the command reads it as it stands."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fsimformer.convert import read_many
from fsimformer.files import read_observations
from fsimformer.model_file import MODELS, read_card

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import infer_regions as bench


def test_the_model_has_most_series_of_those_that_ship() -> None:
    most = len(bench.series(read_card(MODELS / bench.chosen())[0]))
    assert most >= 3
    assert all(len(bench.series(read_card(p)[0])) <= most for p in MODELS.iterdir() if (p / "model.json").is_file())


@pytest.mark.parametrize("model", ["sird", "epidemic"])
def test_a_table_of_regions_is_read_by_one_command(model: str, tmp_path: Path) -> None:
    schema = read_card(MODELS / model)[0]
    data, names = bench.table(model, 1), bench.series(schema)
    data.to_csv(tmp_path / "cases.csv", index=False)
    assert len(data) == 300 and data.groupby("region")["date"].nunique().eq(100).all()
    assert (data["date"].max() - data["date"].min()).days <= schema.indexes[0].upper
    frame = read_observations(tmp_path / "cases.csv", ["time"], "region", {"date": "time"}, schema.scalars)
    regions, found = read_many(schema, frame, "region")
    assert regions.values.tolist() == list(bench.REGIONS)
    for region, observation in zip(bench.REGIONS, found, strict=True):
        own = data[data["region"] == region]
        for name in schema.data:
            told = own[name] if name in names else own[name][:1]
            np.testing.assert_allclose(np.sort(observation.channels[name].value), np.sort(told), rtol=1e-12)
    stopped = data[data["region"] == bench.REGIONS[-1]][names[-1]]
    assert stopped[:50].notna().sum() > 35 and stopped[50:].isna().all()
