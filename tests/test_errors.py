"""How a script of tools/ ends."""

import pytest

from perception.errors import UserError, exit_status


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (None, 0, ""),
        (UserError("the file is empty; give another"), 2, "scan: the file is empty; give another\n"),
        (KeyboardInterrupt(), 130, "scan: interrupted; run the same command again to continue\n"),
    ],
)
def test_statuses(error, status, told, capsys):
    def work():
        if error is not None:
            raise error

    assert exit_status("scan", work) == status
    assert capsys.readouterr().err == told
