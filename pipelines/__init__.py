"""The Ray application: thin shells around ndsm's classes."""
