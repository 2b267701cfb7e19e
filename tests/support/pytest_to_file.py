"""pytest_to_file.py FILE ARGUMENTS: pytest, whose exit code is written to a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    file, *arguments = sys.argv[1:]
    Path(file).write_text(str(int(pytest.main(arguments))))
