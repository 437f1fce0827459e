"""The table of model families: a new one is a file here and a line in ``FAMILIES``. Importing it loads no torch."""

from __future__ import annotations

from lit_deploy.core.specs import FamilyName, InputKind, InputSpec, ModelSpec
from lit_deploy.models.families.family import Family, Published
from lit_deploy.models.families.lit import Lit
from lit_deploy.models.families.lit_ti import LitTi

FAMILIES: dict[FamilyName, Family] = {family.name: family for family in (LitTi(), Lit())}
"""All families by name, in the order in which keys are tried on them."""

PUBLISHED: dict[str, Published] = {
    name: model for family in FAMILIES.values() for name, model in family.published.items()
}
"""The authors' networks by name."""

OFFICIAL_SPECS: dict[str, ModelSpec] = {name: model.spec for name, model in PUBLISHED.items()}
"""Their dimensions."""


def default_input(model: ModelSpec, kind: InputKind = "float") -> InputSpec:
    """The official evaluation's input for a network."""
    return FAMILIES[model.family].default_input(model, kind)
