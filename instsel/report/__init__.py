"""`instsel report`: what runs over one pool found, as one HTML page that works offline."""

from instsel.report.html import Section
from instsel.report.page import build_page
from instsel.report.reading import Report, read_report

__all__ = ["Report", "Section", "build_page", "read_report"]
