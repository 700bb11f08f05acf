"""The format of checkpoint files: other versions and other files are refused in words."""

import numpy as np
import pytest

from qdesampler.driver.checkpoint import CheckpointError, read_arrays, write_arrays


def test_a_file_of_another_version_is_refused_and_named(tmp_path):
    path = tmp_path / "state.qde"
    write_arrays(path, {"iteration": 3}, {"z": np.arange(4.0)})
    content = path.read_bytes()
    header, arrays = read_arrays(path)
    assert header == {"iteration": 3}
    assert np.array_equal(arrays["z"], np.arange(4.0))
    first_line, rest = content.split(b"\n", 1)
    version = int(first_line.split()[-1])
    path.write_bytes(b"qdesampler arrays %d\n" % (version - 1) + rest)
    message = rf"has format {version - 1}, written by another version .* reads format {version}\."
    with pytest.raises(CheckpointError, match=message):
        read_arrays(path)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "state.qde"
    path.write_bytes(b"something else\n")
    with pytest.raises(CheckpointError, match="does not begin as a file of qdesampler does"):
        read_arrays(path)
