"""No test compares a duration with a bound: a busy machine takes longer, and a figure of time belongs in a benchmark.

What is found is an ordering comparison of which a side is a difference or a sum of the clock's readings (an elapsed time, a
deadline), or of which one side is named as seconds and the other is a number other than 0. Two readings may be
compared: that one event comes after another is no bound on how long it takes.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
CLOCKS = {"time", "monotonic", "perf_counter", "process_time", "time_ns", "monotonic_ns", "perf_counter_ns"}
ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def reads_clock(node: ast.AST, names: set[str]) -> bool:
    """Whether a clock is read in the expression, or was read for one of the names in it."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in names:
            return True
        match part:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr=clock)) if clock in CLOCKS:
                return True
    return False


def is_duration(node: ast.AST, readings: set[str], durations: set[str]) -> bool:
    """Whether the expression holds a sum or difference of readings, or a name of one."""
    return any(
        (isinstance(part, ast.BinOp) and reads_clock(part, readings))
        or (isinstance(part, ast.Name) and part.id in durations)
        for part in ast.walk(node)
    )


def names_seconds(node: ast.AST) -> bool:
    """Whether the expression is a variable, an attribute or a key that is named as seconds."""
    match node:
        case (
            ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name)))
        ):
            return name.endswith(("seconds", "elapsed"))
    return False


def is_bound(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value != 0


def assignments(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Each name that is assigned, and what to."""
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            yield from ((name.id, value) for name, value in pairs if isinstance(name, ast.Name))


def timed_comparisons(source: str) -> list[int]:
    """Lines of the assertions and loops that compare a duration with something else."""
    tree = ast.parse(source)
    clocks = {name for name, value in assignments(tree) if reads_clock(value, set())}
    durations = {name for name, value in assignments(tree) if is_duration(value, clocks, set())}
    found = []
    for statement in ast.walk(tree):
        if not isinstance(statement, ast.Assert | ast.While):
            continue
        for node in ast.walk(statement.test):
            if not isinstance(node, ast.Compare) or not any(isinstance(op, ORDER) for op in node.ops):
                continue
            sides = [node.left, *node.comparators]
            if any(is_duration(side, clocks, durations) for side in sides) or (
                any(map(names_seconds, sides)) and any(map(is_bound, sides))
            ):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("t = time.time()\nassert time.time() - t < 5", [2]),
        ("a, b = time.monotonic() + 30, 1\nwhile busy() and time.monotonic() < a:\n    pass", [2]),
        ("took = time.perf_counter() - start\nassert took < 2.0", [2]),
        ("a = time.time()\nb = time.time()\nd = b - a\nassert d < 9", [4]),
        ("assert found['stall_seconds'] < 1.0", [1]),
        ("assert 0 < row['cpu_seconds'] <= 60", [1]),
        ("assert 0 < row['cpu_seconds'] < other['cpu_seconds']", []),
        ("told = time.time()\nassert line['time'] > told", []),
        ("assert loss < 0.1", []),
    ],
)
def test_a_bound_on_a_duration_is_recognised(source, lines):
    assert timed_comparisons(source) == lines


def test_no_test_compares_a_duration_with_a_bound():
    own = Path(__file__)
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        if path != own
        for line in timed_comparisons(path.read_text(encoding="utf-8"))
    ]
    assert found == []
