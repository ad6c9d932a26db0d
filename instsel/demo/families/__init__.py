"""Families of small instruction-following exercises, by theme."""

from __future__ import annotations

from instsel.demo.families.labels import LABELS
from instsel.demo.families.numbers import NUMBERS
from instsel.demo.families.questions import QUESTIONS
from instsel.demo.families.records import RECORDS
from instsel.demo.families.tables import TABLES
from instsel.demo.families.texts import TEXTS

FAMILIES = TABLES + LABELS + RECORDS + NUMBERS + TEXTS
TRAINING_FAMILIES = tuple(family for family in FAMILIES if not family.held_out)
HELD_OUT_FAMILIES = tuple(family for family in FAMILIES if family.held_out)
TRAINING_QUESTIONS = tuple(question for question in QUESTIONS if not question.held_out)
HELD_OUT_QUESTIONS = tuple(question for question in QUESTIONS if question.held_out)
