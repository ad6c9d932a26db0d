"""instsel inside other tools, one short module each; each needs its host only when it is imported."""
