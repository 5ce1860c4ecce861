"""Tells people how a job goes: once for each change, of what they asked to hear."""
