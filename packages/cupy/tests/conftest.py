"""What several modules of these tests start from."""

import pytest

import isostep
from isostep import BackendError


@pytest.fixture(scope="module")
def raw():
    """The CUDA kernels' text, compiled for the CPU."""
    try:
        return isostep.backend("cupy:raw(host)")
    except BackendError as error:
        pytest.skip(str(error))
