"""Associations: who is, has or owns what, with a past."""

from pelagos.services.associations.messages import (
    Associate,
    AssociationMap,
    AssociationPage,
    EndAssociation,
    FindAssociations,
    FindSubjects,
    NamePage,
    Pair,
    SubjectAssociations,
    Triple,
)
from pelagos.services.associations.service import AssociationsService

__all__ = [
    "Associate",
    "AssociationMap",
    "AssociationPage",
    "AssociationsService",
    "EndAssociation",
    "FindAssociations",
    "FindSubjects",
    "NamePage",
    "Pair",
    "SubjectAssociations",
    "Triple",
]
