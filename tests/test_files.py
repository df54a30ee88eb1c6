"""What can be written is known before the work."""

import pytest

from daedal.errors import DaedalError
from daedal.files import check_writable


def test_names_that_cannot_be_written_are_refused(tmp_path) -> None:
    check_writable(tmp_path / "new" / "a.png", (".png", ".jpg"))
    check_writable(tmp_path / "a.anything")
    with pytest.raises(
        DaedalError, match=r"'a.pgn' does not end in .png, .jpg \(did you mean '.png'"
    ):
        check_writable(tmp_path / "a.pgn", (".png", ".jpg"))
    with pytest.raises(DaedalError, match="is a folder; give the name of a file in it"):
        check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DaedalError, match="is no folder that can be written"):
        check_writable(tmp_path / "file" / "a.png")
