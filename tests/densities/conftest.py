"""Helpers shared by the tests of this room."""

import pytest

from tests.support.expectation import assert_mean


@pytest.fixture
def assert_expectation():
    return assert_mean
