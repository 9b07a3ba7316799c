"""benchmarks/user_lines.py counts what is written, once, and the page's table says what it counts."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import user_lines as bench

PAGE = """
Some text about **nothing**.

## The data

```python
a = 1
```

## One task

**ours** (run)

```python
import a
from b import c

# why
x = f(
    1,  # one
)
y = g(x)
```

**theirs**

```py
x = f(1)
```

## Another

**ours**

```python
y = g(x)                # again
z = 1
```

```text
4
```
"""


def test_what_was_written_counts_once() -> None:
    assert bench.count(PAGE) == {"One task": {"ours": 4, "theirs": 1}, "Another": {"ours": 1}}


def test_the_page_s_table_is_what_is_counted() -> None:
    page = bench.PAGE.read_text()
    head, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", page, re.MULTILINE)
    )
    table = {row[0]: dict(zip(head[1:], map(int, row[1:]), strict=True)) for row in rows[1:]}
    assert table == {task.lower(): found for task, found in bench.count(page).items()}
    assert all(set(found) == {"fsimformer", "sbi", "NumPyro"} for found in table.values())
