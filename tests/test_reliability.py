"""docs/reliability.md names tests that exist, for every invariant."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_invariant_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text().splitlines()
    lines = [line for line in page if line.startswith("| I-")]
    present = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert {line.split()[1] for line in lines} == {f"I-{number:02}" for number in range(1, 36)}
    for line in (line for line in page if re.match(r"\| (I-)?\d", line)):
        named = re.findall(r"`(test_\w+)`", line)
        assert named, line
        assert set(named) <= present, set(named) - present
