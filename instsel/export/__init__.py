"""Selections as files that trainers load as they are."""

from instsel.export.trainer_files import export
from instsel.export.trainers import TRAINERS

__all__ = ["TRAINERS", "export"]
