"""The search over configurations; builds on `pipelines`."""
