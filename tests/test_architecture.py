"""The import graph: no two modules import each other, directly or through others.

import-linter checks the layers (`pyproject.toml`); this covers imports within functions and under
`TYPE_CHECKING` too, in every package.
"""

from collections.abc import Iterator, Mapping

import grimp
import pytest

PACKAGES = ("core", "trainers", "serving", "components", "tfx_pipeline")


def cycles(imports: Mapping[str, set[str]]) -> Iterator[set[str]]:
    """Groups of modules that import each other: Tarjan's strongly connected components."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    for start in imports:
        work = [(start, iter(imports[start]))] if start not in index else []
        if work:
            index[start] = lowest[start] = len(index)
            stack.append(start)
        while work:
            module, others = work[-1]
            new = next((one for one in others if one not in index), None)
            if new is not None:
                index[new] = lowest[new] = len(index)
                stack.append(new)
                work.append((new, iter(imports[new])))
                continue
            work.pop()
            on_stack = set(stack)
            lowest[module] = min(
                lowest[module], *(lowest[one] for one in imports[module] if one in on_stack), 10**9
            )
            if lowest[module] == index[module]:
                group = stack[stack.index(module) :]
                del stack[stack.index(module) :]
                if len(group) > 1:
                    yield set(group)


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}}, [{"a", "b"}]),
        ({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}, [{"b", "c", "d"}]),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, []),
    ],
)
def test_cycles_are_found(imports, expected):
    assert list(cycles(imports)) == expected


def test_no_module_imports_itself_through_others():
    graph = grimp.build_graph(*PACKAGES)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert list(cycles(imports)) == []
