"""Figures are saved with rounded data, whatever they were made from."""

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import rrhelpers as rr


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, lambda rows: np.array(rows, np.float32)])
def test_data_are_rounded_and_whole_numbers_kept(kind, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    marker = {"size": kind([1.23456, 2])}
    figure = go.Figure(go.Scatter(x=kind([1 / 3, 2 / 3]), y=np.array([123_456, 7]), marker=marker))
    figure.add_heatmap(z=np.array([[1 / 3, 2 / 3, 1.0], [0.1, 0.2, 0.30001]]))
    rr.book.show(figure, "figure", "two points")
    data = shown[0]["application/vnd.plotly.v1+json"]["data"]
    assert data[0]["x"] == [0.3333, 0.6667]
    assert data[0]["y"] == [123_456, 7]
    assert data[0]["marker"]["size"] == [1.235, 2]
    assert data[1]["z"] == [[0.3333, 0.6667, 1], [0.1, 0.2, 0.3]]
    assert "bdata" not in json.dumps(shown)
