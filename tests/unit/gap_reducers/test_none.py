import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from i0t.gap_reducers.none import NoReducer

finite = st.floats(min_value=-1e3, max_value=1e3, width=32)


@given(hnp.arrays(np.float32, (4, 3), elements=finite).filter(lambda a: (np.linalg.norm(a, axis=1) > 1e-6).all()))
def test_normalises_and_nothing_else(rows):
    image, text = NoReducer(3)(torch.from_numpy(rows), torch.from_numpy(rows[:2]))
    expected = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(image, expected, atol=1e-6)
    np.testing.assert_allclose(text, expected[:2], atol=1e-6)


def test_nothing_to_fit_or_train(make):
    reducer = NoReducer(3)
    reducer.fit(make(4, 3))
    assert (reducer.trainable, reducer.needs_fit, bool(reducer.fitted)) == (False, False, False)
    assert list(reducer.parameters()) == []
