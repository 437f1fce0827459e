"""The table of model families: a new one is a file here and a line in ``FAMILIES``. Importing it loads no torch."""

from __future__ import annotations

from lit_deploy.core.specs import FamilyName, InputKind, InputSpec, ModelSpec
from lit_deploy.models.families.dense import Dense
from lit_deploy.models.families.family import Family, Published
from lit_deploy.models.families.heads import MaskRcnn, RetinaNet, SemanticFpn
from lit_deploy.models.families.lit import Lit
from lit_deploy.models.families.lit_ti import LitTi

_DENSE = tuple(
    Dense(head, backbone, f"{file}_{variant}.pth", scores)
    for head, file, ti, s in (
        (RetinaNet(), "retina_lit", {"box AP": 41.6}, {"box AP": 41.6}),
        (MaskRcnn(), "mask_rcnn_lit", {"box AP": 42.0, "mask AP": 39.1}, {"box AP": 42.9, "mask AP": 39.6}),
        (SemanticFpn(), "sem_fpn_lit", {"mIoU": 41.3}, {"mIoU": 41.7}),
    )
    for backbone, variant, scores in ((LitTi("backbone."), "ti", ti), (Lit("backbone."), "s", s))
)

FAMILIES: dict[FamilyName, Family] = {family.name: family for family in (*_DENSE, LitTi(), Lit())}
"""All families by name, in the order in which keys are tried on them."""

PUBLISHED: dict[str, Published] = {
    name: model for family in (LitTi(), Lit(), *_DENSE) for name, model in family.published.items()
}
"""The authors' networks by name."""

OFFICIAL_SPECS: dict[str, ModelSpec] = {name: model.spec for name, model in PUBLISHED.items()}
"""Their dimensions."""


def default_input(model: ModelSpec, kind: InputKind = "float") -> InputSpec:
    """The official evaluation's input for a network."""
    return FAMILIES[model.family].default_input(model, kind)
