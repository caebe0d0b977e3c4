"""import-linter contract types for the import rules in pyproject.toml.

The stock types name every module in full and, for ``forbidden``, want each to exist. Here a name may hold shell
wildcards, may not exist yet, and in a list of source modules may be taken out again with a leading ``!``. The layers
are exhaustive: a module of a layered package that no layer names breaks the contract, so nothing escapes the rules
by being new.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import cast

import grimp
from importlinter import ContractCheck, fields
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import Layer, LayersContract, ModuleTail
from importlinter.domain.imports import ModuleExpression


def matching(pattern: str, modules: Collection[str]) -> set[str]:
    """Return the modules that ``pattern`` names; its wildcards never cross a dot."""
    depth = pattern.count(".")
    return {m for m in modules if m.count(".") == depth and fnmatchcase(m, pattern)}


def select(patterns: Iterable[str], modules: Collection[str]) -> set[str]:
    """Return the modules that any pattern names, less those that a ``!pattern`` names."""
    patterns = list(patterns)
    wanted = {m for p in patterns if not p.startswith("!") for m in matching(p, modules)}
    return wanted - {m for p in patterns if p.startswith("!") for m in matching(p[1:], modules)}


def assign(layers: Sequence[Layer], modules: Collection[str]) -> list[Layer]:
    """Replace the patterns of each layer by the modules they name; the first layer that names a module has it.

    Layers without a module are left out. A layer of one pattern with a wildcard has siblings that may import each
    other: they are parts of one thing.
    """
    taken: set[str] = set()
    assigned = []
    for layer in layers:
        patterns = sorted(tail.name for tail in layer.module_tails)
        found = select(patterns, modules) - taken
        taken |= found
        independent = layer.is_independent and not (len(patterns) == 1 and "*" in patterns[0])
        if found:
            assigned.append(Layer({ModuleTail(name=m) for m in found}, is_independent=independent))
    return assigned


def unplaced(layers: Sequence[Layer], modules: Collection[str]) -> set[str]:
    """Return the modules no layer names, except a package that the layers name only parts of."""
    names = {tail.name for layer in layers for tail in layer.module_tails}
    split = {name.rpartition(".")[0] for name in names} - names
    placed = select(names, modules)
    return {
        m
        for m in modules
        if m.partition(".")[0] in {name.partition(".")[0] for name in names}
        and m not in split
        and not any(m == p or m.startswith(p + ".") for p in placed)
    }


class HouseLayersContract(LayersContract):
    """Layers by pattern, exhaustive; options as for ``layers`` without containers."""

    type_name = "house_layers"

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        """Check the layers that exist by now against the import graph."""
        modules = {m for m in graph.modules if not graph.is_module_squashed(m)}
        layers = cast("Sequence[Layer]", self.layers)
        self.layers = assign(layers, modules)  # type: ignore[assignment]  # a field's value stands in the field's place
        result = super().check(graph, verbose)
        missing = unplaced(layers, modules)
        result.metadata["undeclared_modules"] = missing
        result.kept = result.kept and not missing
        return result


class HouseForbiddenContract(ForbiddenContract):
    """Forbidden imports by pattern; a module that does not exist yet forbids and imports nothing."""

    type_name = "house_forbidden"

    source_modules = fields.SetField(subfield=fields.StringField())
    forbidden_modules = fields.SetField(subfield=fields.StringField())

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        """Check the modules that exist by now against the import graph."""
        for option in ("source_modules", "forbidden_modules"):
            names = select(cast("set[str]", getattr(self, option)), graph.modules)
            setattr(self, option, {ModuleExpression(name) for name in names})
        return super().check(graph, verbose)
