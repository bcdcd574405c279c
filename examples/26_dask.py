"""Dask on Shoal: an array and a data frame, persisted and shuffled through node memory."""

import dask.array
import dask.dataframe
import numpy as np
import pandas as pd

from shoal.util.dask import enable_dask_on_shoal

x = dask.array.random.RandomState(0).random((800, 800), chunks=(200, 200))
frame = pd.DataFrame({"city": np.arange(1000) % 5, "sales": np.arange(1000)})
parts = dask.dataframe.from_pandas(frame, npartitions=4)

with enable_dask_on_shoal():
    kept = x.persist()
    means = (kept + kept.T).mean(axis=0).compute()
    by_city = parts.shuffle("city").groupby("city").sales.sum().compute().sort_index()
print(means.shape, by_city.to_dict())
assert np.array_equal(means, (x + x.T).mean(axis=0).compute(scheduler="synchronous"))
assert by_city.equals(frame.groupby("city").sales.sum())
