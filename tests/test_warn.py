"""A warning points at the line that called into jills, however deep it is found."""

import warnings

import jax

import jills
from jills.warn import warn


def test_it_points_past_jills_and_jax():
    inside = {"warn": warn, "jax": jax, "__name__": "jills.deep"}
    exec("def deeper():\n    jax.eval_shape(lambda: warn('odd'))\ndef deep():\n    deeper()", inside)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside["deep"]()
    assert [(str(warning.message), warning.filename) for warning in caught] == [("odd", __file__)]


def test_where_all_is_inside_it_still_warns():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec("warn('odd')", {"warn": warn, "__name__": jills.__name__})
    assert len(caught) == 1
