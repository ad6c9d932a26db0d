"""Selections as files that trainers load as they are."""

from instsel.export.trainer_files import TRAINERS, export

__all__ = ["TRAINERS", "export"]
